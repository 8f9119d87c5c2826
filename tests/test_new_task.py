"""The lines of docs/new_task.md, run as they stand."""

import json
import re

import pytest

from tera_pl.cli import main
from tests.conftest import ROOT

pytestmark = pytest.mark.slow


def test_the_guide_works(tmp_path, monkeypatch):
    text = (ROOT / "docs" / "new_task.md").read_text()
    code, config = (
        re.search(rf"```{kind}\n(.*?)```", text, re.DOTALL) for kind in ("python", "yaml")
    )
    lines = code.group(1).splitlines() + config.group(1).splitlines()
    assert len([line for line in lines if line.strip()]) < 60
    (tmp_path / "my_tasks.py").write_text(code.group(1))
    (tmp_path / "letters.yaml").write_text(config.group(1))
    for folder in ("configs", "datamodules"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    (tmp_path / "letters").mkdir()
    words = [{"word": "a" * (i % 7 + 1), "letters": i % 7 + 1} for i in range(150)]
    for name in ("train", "test"):
        (tmp_path / "letters" / f"{name}.json").write_text(json.dumps(words))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    short = ["--trainer.max_steps=4", "--trainer.val_check_interval=4"]
    assert main(["fit", "--config", "letters.yaml", *short]) == 0
    (run,) = (tmp_path / "runs").glob("*/version_0")
    best = str(run / "checkpoints" / "best.ckpt")
    assert main(["test", "--config", "letters.yaml", *short, "--ckpt_path", best]) == 0
    results = json.loads((run / "results.json").read_text())
    assert "test/accuracy/letters" in results["test"]["scores"]
    # The helpers that the guide uses report invalid data.
    (tmp_path / "letters" / "train.json").write_text('[{"letters": 3}]')
    assert main(["fit", "--config", "letters.yaml", *short]) == 2
