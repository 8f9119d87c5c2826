"""The lines of docs/new_task.md, run as they stand."""

import json
import re
import runpy

import pytest
import yaml

from tera_pl.cli import main
from tests.conftest import ROOT, code_blocks

pytestmark = pytest.mark.slow

GUIDE = "docs/new_task.md"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder with the files of the guide, as they stand."""
    names = re.findall(r"^`([\w.]+)`", (ROOT / GUIDE).read_text(), re.MULTILINE)
    blocks = code_blocks(GUIDE, "python", "yaml")
    for name, block in zip(["write_quiz.py", "my_tasks.py", "quiz.yaml"], blocks, strict=True):
        assert name in names
        (tmp_path / name).write_text(block["text"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    runpy.run_path("write_quiz.py")
    return tmp_path


def test_the_guide_works(folder, capfd):
    commands = re.findall(r"(?m)^    python -m tera_pl (.*)$", (ROOT / GUIDE).read_text())
    assert [command.split()[0] for command in commands] == ["fit", "test"]
    for command in commands:
        assert main(command.split()) == 0
    (run,) = (folder / "runs" / "quiz").glob("version_0")
    assert sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name != "__pycache__") == [
        "quiz",
        "runs",
    ]
    assert "rate      0.1, the default of TeraConfig" in capfd.readouterr().out
    # It learns: the base model answers none, guessing a third.
    lines = (run / "predictions.jsonl").read_text().splitlines()
    found = [line for line in map(json.loads, lines) if line["id"].startswith("quiz/test.json")]
    right = [line["output"].endswith(line["reference"]) for line in found]
    assert len(right) == 128
    assert sum(right) / len(right) > 0.9
    # The helpers that the guide uses report invalid data.
    (folder / "quiz" / "train.json").write_text('[{"options": []}]')
    capfd.readouterr()
    assert main(["fit", "--config", "quiz.yaml"]) == 2
    assert "quiz/train.json, record 0: no field 'question'" in capfd.readouterr().err


PLAIN = """
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

TOKENS = torch.tensor([[5, 6, 7, 8]])


class Plain(LightningDataModule):
    def __init__(self, missing: str | None = None) -> None:
        super().__init__()
        self.missing = missing

    def train_dataloader(self) -> DataLoader:
        return self.loader({})

    def val_dataloader(self) -> DataLoader:
        record = {"id": "0", "task": "a", "prompt": "?", "reference": "answer1", "choices": ["b"]}
        prompts = {"prompt_input_ids": TOKENS, "prompt_attention_mask": torch.ones_like(TOKENS)}
        return self.loader(prompts | {"records": [record]})

    def loader(self, more: dict) -> DataLoader:
        mask = torch.ones_like(TOKENS)
        batch = {"input_ids": TOKENS, "attention_mask": mask, "labels": TOKENS} | more
        batch.pop(self.missing, None)
        return DataLoader([batch] * 4, batch_size=None)
"""


@pytest.mark.parametrize("missing", [None, "labels", "records"])
def test_a_plain_datamodule_works_or_is_refused_in_one_line(missing, tmp_path, monkeypatch, capfd):
    (tmp_path / "plain_data.py").write_text(PLAIN)
    (block,) = code_blocks(GUIDE, "yaml")
    config = yaml.safe_load(block["text"])
    config["data"] = {"class_path": "plain_data.Plain", "init_args": {"missing": missing}}
    config["trainer"] = {"max_steps": 4, "val_check_interval": 4}
    (tmp_path / "plain.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    code = main(["fit", "--config", "plain.yaml"])
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    if missing:
        assert code == 2
        assert len(errors) == 1
        assert f"data: a batch of Plain has no {missing}: expected " in errors[0]
        return
    assert (code, errors) == (0, [])
    (run,) = (tmp_path / "runs").glob("*/version_0")
    results = json.loads((run / "results.json").read_text())
    assert results["settings"]["data"] == {"class": "plain_data.Plain"}
    assert results["settings"]["training"]["batch_size"] is None
    assert "val/accuracy" in results["fit"]["scores"]
