"""The lines of docs/new_task.md, run as they stand."""

import json
import re

import pytest
import yaml

from tera_pl.cli import main
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

GUIDE = ROOT / "docs" / "new_task.md"


def test_the_guide_works(tmp_path, monkeypatch):
    text = GUIDE.read_text()
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
    text = re.search(r"```yaml\n(.*?)```", GUIDE.read_text(), re.DOTALL).group(1)
    config = yaml.safe_load(text)
    config["data"] = {"class_path": "plain_data.Plain", "init_args": {"missing": missing}}
    config["trainer"] = {"max_steps": 4, "val_check_interval": 4}
    (tmp_path / "plain.yaml").write_text(yaml.safe_dump(config))
    for folder in ("configs", "datamodules"):
        (tmp_path / folder).symlink_to(ROOT / folder)
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
