"""A base of the Hub: its commit is recorded; without a network one line says what to do."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
import yaml

from tera_pl.adapters import TeraConfig
from tera_pl.cli import main
from tera_pl.models.hub import check_available

pytestmark = pytest.mark.slow

COMMITS = {"main": "a" * 40, "v1": "b" * 40}


@pytest.fixture
def cache(tiny_backbone, tmp_path):
    """A cache in which `somebody/tiny` lies with two revisions, as `hf download` leaves it."""
    folder = tmp_path / "hub"
    model = folder / "models--somebody--tiny"
    (model / "refs").mkdir(parents=True)
    for name, commit in COMMITS.items():
        (model / "refs" / name).write_text(commit)
        shutil.copytree(tiny_backbone, model / "snapshots" / commit)
    return folder


@pytest.fixture
def offline(cache, tmp_path, monkeypatch):
    """Work without a network, in a scratch folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def run_in_process(cache, folder, *arguments):
    """The same for a user: the library reads its environment variables once."""
    environment = os.environ | {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "tera_pl", *arguments]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def with_base(config, path, revision):
    content = yaml.safe_load(config.read_text())
    content["model"]["init_args"]["backbone"] |= {"path": path, "revision": revision}
    config.write_text(yaml.safe_dump(content))
    return str(config)


@pytest.mark.parametrize("revision", [None, "v1"])
def test_commit_is_recorded_wherever_the_base_is_named(
    revision, cache, offline, tiny_config, tmp_path
):
    config = with_base(tiny_config, "somebody/tiny", revision)
    if revision == "v1":
        # Only that revision has a tokenizer: the data must not take another one's.
        (cache / "models--somebody--tiny/snapshots" / COMMITS["main"] / "tokenizer.json").unlink()
    arguments = ["fit", "--config", config, "--trainer.max_steps", "2"]
    if revision == "v1":
        run_in_process(cache, tmp_path, *arguments)
    else:
        assert main(arguments) == 0
    commit = COMMITS[revision or "main"]
    folder = tmp_path / "runs" / "run" / "version_0"
    spec = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["tera_pl"]
    results = json.loads((folder / "results.json").read_text())
    for backbone in (spec["backbone"], results["settings"]["backbone"]):
        assert backbone["path"] == "somebody/tiny"
        assert backbone["revision"] == revision
        assert backbone["commit"] == commit
    adapter = TeraConfig.from_pretrained(folder / "adapter")
    assert (adapter.base_model_name_or_path, adapter.revision) == ("somebody/tiny", commit)


def test_offline_is_one_line_and_exit_2(offline, tiny_config, tmp_path, capfd):
    config = with_base(tiny_config, "somebody/other", "v2")
    assert main(["fit", "--config", config]) == 2
    errors = capfd.readouterr().err
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert "somebody/other" in line
    assert "HF_HUB_OFFLINE is set" in line
    assert "hf download somebody/other --revision v2" in line
    assert "Traceback" not in errors
    assert not (tmp_path / "runs").exists() or not list(tmp_path.rglob("*.ckpt"))


def test_unreachable_hub_is_an_error_at_once(monkeypatch):
    # Port 9 of this machine: refused, as by a firewall.
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(ValueError, match=r"http://127.0.0.1:9 does not answer .*hf download a/b\)"):
        check_available("a/b", None)


def test_neither_a_folder_nor_an_id(tmp_path):
    check_available(str(tmp_path), None)
    with pytest.raises(ValueError, match="no folder '/nowhere/at/all'"):
        check_available("/nowhere/at/all", None)
