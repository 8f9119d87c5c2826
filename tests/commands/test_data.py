"""What `data` shows: supervised text, lengths and cuts, compared with the tokenizer's own."""

import io
import json
import re
import shutil

import pytest
import torch
import yaml
from lightning.pytorch import LightningDataModule
from rich.console import Console
from transformers import AutoTokenizer

from tera_pl.__main__ import main
from tera_pl.reporting.data_summary import (
    Example,
    _bars,
    as_lines,
    first_examples,
    print_example,
)

pytestmark = pytest.mark.slow
PROMPT = "What color is the sky ?"


class Plain(LightningDataModule):
    """A datamodule without any of the optional parts: four tokens, the last two supervised."""

    def train_dataloader(self):
        ids = torch.tensor([[5, 6, 7, 8, 0]] * 2)
        labels = torch.tensor([[-100, -100, 7, 8, -100]] * 2)
        return [{"input_ids": ids, "labels": labels, "attention_mask": (ids > 0).long()}] * 2


@pytest.fixture
def show(tiny_backbone, tiny_config, tmp_path, monkeypatch, capfd):
    """Run the command on a backbone without weights."""
    folder = tmp_path / "backbone"
    shutil.copytree(tiny_backbone, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "40")  # lines are not wrapped

    def call(data, *options):
        content = yaml.safe_load(tiny_config.read_text())
        content["model"]["init_args"]["backbone"]["path"] = str(folder)
        content["data"] = content["data"] if data is None else data
        (tmp_path / "shown.yaml").write_text(yaml.safe_dump(content))
        capfd.readouterr()
        assert main(["data", "--config", "shown.yaml", *options]) == 0
        return capfd.readouterr().out

    return call


def table_of(text):
    rows = re.findall(r"^(\w[\w ]*?)  +(\d[\d, ]*)$", text, re.MULTILINE)
    return {name: [int(v.replace(",", "")) for v in values.split()] for name, values in rows}


def test_supervised_text_is_the_response(show, tiny_backbone, tmp_path):
    text = show(None)
    shown = re.findall(r"\[\[(.*?)\]\]", text)
    # The explanation of the brackets is last.
    assert len(shown) == 3 + 1
    assert all(re.fullmatch(r" ?the correct answer is answer[123] ?</s>", one) for one in shown[:3])
    names = re.findall(
        r"^openbookqa/train.json:(\d+): (\d+) tokens, (\d+) supervised$", text, re.MULTILINE
    )
    assert len(names) == 3
    tokenizer = AutoTokenizer.from_pretrained(tiny_backbone)
    response = tokenizer("the correct answer is answer1", add_special_tokens=False)["input_ids"]
    assert {int(supervised) for _, _, supervised in names} == {len(response) + 1}
    table = table_of(text)
    assert table["examples"] == [80, 120, 12]
    assert table["supervised tokens"] == [(len(response) + 1) * n for n in (80, 120, 12)]
    assert not (tmp_path / "runs").exists()


def test_lengths_and_cuts(show, tmp_path, tiny_backbone):
    rows = [{"q": " ".join(["sky"] * i), "r": "blue"} for i in range(1, 41)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    encoding = {"template": "{instruction}", "max_length": 30}
    data = {
        "class_path": "datamodules.Instructions",
        "init_args": {
            "train": "a.json",
            "test": "a.json",
            "columns": {"prompt": "q", "response": "r"},
            "encoding": encoding,
            "split": {"size": 1, "seed": 0},
        },
    }
    text = show(data, "--examples", "0")
    assert "[[" not in text
    # <s>, the words, blue, </s>: prompts of more than 27 words are cut.
    assert table_of(text)["examples"] == [39, 1, 40]
    assert table_of(text)["prompts cut"][2] == 13
    assert table_of(text)["longest uncut"][2] == 43
    assert table_of(text)["longest"][0] == 30
    counts = [int(n) for n in re.findall(r"^ *\d+-\d+ +#* +(\d+)$", text, re.MULTILINE)]
    assert sum(counts) == 39


def test_a_plain_datamodule(show, tiny_backbone):
    tokenizer = AutoTokenizer.from_pretrained(tiny_backbone)
    (first, *_) = first_examples(Plain(), tokenizer, 3)
    assert "".join(part for part, _ in first.parts) == tokenizer.decode([5, 6, 7, 8])
    assert [is_supervised for _, is_supervised in first.parts] == [False, True]
    assert first.parts[1][0].strip() == tokenizer.decode([7, 8])
    text = show({"class_path": f"{__name__}.Plain"})
    assert text.count("an unnamed batch: 4 tokens, 2 supervised") == 3
    assert table_of(text) == {
        "examples": [4],
        "mean tokens": [4],
        "longest": [4],
        "supervised tokens": [8],
    }


@pytest.mark.parametrize("forced", [True, False])
def test_colors_on_a_terminal_and_brackets_elsewhere(forced):
    file = io.StringIO()
    console = Console(file=file, force_terminal=forced, color_system="standard" if forced else None)
    long = "q" * 5000
    parts = [("a \x1b[2J" + long, False), ("right", True)]
    print_example(Example("name", parts, 4, 1), console)
    text = file.getvalue()
    assert ("\x1b[1;32mright\x1b[0m" in text) == forced
    assert ("[[right]]" in text) == (not forced)
    # What is left out is counted, and the terminal obeys no text of the data.
    assert "\x1b[2J" not in text
    assert "a \\x1b[2J" in text
    left_out = int(re.search(r"\.\.\. ([\d,]+) characters \.\.\.", text)[1].replace(",", ""))
    assert left_out + text.count("q") == len(long)


def test_bars():
    lines = _bars(10, 5, [1, 0, 1000])
    assert [line.split() for line in lines] == [
        ["10-14", "#", "1"],
        ["15-19", "0"],
        ["20-24", "#" * 40, "1,000"],
    ]
    assert as_lines({"leaks": {}}) == [""]
