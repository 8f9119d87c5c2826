"""What all cases start from: a tiny run that was trained and tested, and a user's files."""

import contextlib
import copy
import io
import json
import os
import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tera_pl.__main__ import main as call_command
from tests.campaign.case import redirected
from tests.conftest import tiny_settings, write_backbone, write_commonsense

RUN = "runs/run/version_0"
LAST = f"{RUN}/checkpoints/last.ckpt"
# The user's own, at the names that programs like to take for themselves.
USERS = [
    "adapter/notes.txt",
    "adapter.old/notes.txt",
    "checkpoints/best.ckpt",
    "out.old/notes.txt",
    "out.part/notes.txt",
    "results.json",
    "predictions.jsonl",
    "victim/notes.txt",
]
QUESTIONS = 3


class World:
    """A folder that every case gets a copy of, and what its commands give when nothing is changed.

    Args:
        folder: Where to make it.
        backbone: A tiny base model.
        commonsense: Folder of a tiny Commonsense170k.
        settings: The settings of a run of them.
    """

    def __init__(
        self, folder: Path, backbone: Path, commonsense: Path, settings: dict[str, Any]
    ) -> None:
        self.folder = folder / "template" / "work"
        self.cases = folder / "cases"
        self.folder.mkdir(parents=True)
        shutil.copytree(backbone, self.folder / "base")
        task = self.folder / "data" / "openbookqa"
        task.mkdir(parents=True)
        for split, count in (("train", 40), ("test", QUESTIONS)):
            records = json.loads((commonsense / "openbookqa" / f"{split}.json").read_text())
            (task / f"{split}.json").write_text(json.dumps(records[:count]))
        for name in USERS:
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"the user's {name}\n")
        (self.folder.parent / "victim.txt").write_text("the user's, above the current folder\n")
        self.settings = self._settings(settings)
        self.write(self.folder, self.settings)
        self.call("fit", "--config", "config.yaml")
        self.call("test", "--config", "config.yaml", "--ckpt_path", LAST)
        (self.folder / "study.yaml").write_text(yaml.safe_dump(STUDY))
        for path in (self.folder / RUN).glob("events*"):
            path.unlink()

    @staticmethod
    def write(folder: Path, settings: dict[str, Any]) -> None:
        """Write the configuration of a case."""
        (folder / "config.yaml").write_text(yaml.safe_dump(settings, allow_unicode=True))

    def _settings(self, settings: dict[str, Any]) -> dict[str, Any]:
        settings = copy.deepcopy(settings)
        settings["model"]["init_args"]["backbone"]["path"] = "base"
        settings["data"]["init_args"] |= {"path": "data", "split": {"size": 4}, "batch_size": 2}
        settings["trainer"] |= {"max_steps": 4, "limit_val_batches": 1}
        return settings

    def call(self, *args: str) -> None:
        """Run a command in the template; it must succeed."""
        errors = io.StringIO()
        with working_in(self.folder), redirected(errors):
            code = call_command(list(args))
        assert code == 0, errors.getvalue()

    def copy_to(self, folder: Path) -> Path:
        """Make the folder of a case; beside it are files that nothing may touch."""
        shutil.copytree(self.folder.parent, folder, symlinks=True)
        return folder / "work"

    def fresh(self, *args: str) -> Path:
        """Give the folder in which a command ran on the undamaged copy; each runs once."""
        name = "-".join(args).replace("/", "_")
        if name not in self._references:
            folder = self.copy_to(self.cases.parent / "references" / str(len(self._references)))
            errors = io.StringIO()
            with working_in(folder), redirected(errors):
                code = call_command(list(args))
            assert code == 0, errors.getvalue()
            self._references[name] = folder
        return self._references[name]

    @cached_property
    def _references(self) -> dict[str, Path]:
        return {}

    @cached_property
    def llama(self) -> Path:
        """The sizes of Llama-3-8B in two layers, without weights."""
        folder = self.cases.parent / "llama"
        folder.mkdir()
        sizes = {"hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 2048}
        return write_backbone(folder, num_attention_heads=32, num_key_value_heads=8, **sizes)

    @cached_property
    def base(self) -> Any:
        """The base model, to be copied before use."""
        return AutoModelForCausalLM.from_pretrained(self.folder / "base", dtype=torch.float32)

    @cached_property
    def checkpoint(self) -> dict[str, Any]:
        """The content of the last checkpoint, digests included; not to be changed."""
        return torch.load(self.folder / LAST, weights_only=True)


def make_world(folder: Path) -> World:
    """Make everything below a folder."""
    for name in ("backbone", "commonsense"):
        (folder / name).mkdir()
    write_backbone(folder / "backbone")
    write_commonsense(folder / "commonsense")
    settings = tiny_settings(str(folder / "backbone"), str(folder / "commonsense"))
    return World(folder, folder / "backbone", folder / "commonsense", settings)


STUDY: dict[str, Any] = {
    "output": "out",
    "entries": {
        "one": {"config": "config.yaml"},
        "two": {
            "config": "config.yaml",
            "set": {"model.init_args.adapter.init_args.dropout": 0.0},
            "grid": {"model.init_args.adapter.init_args.out_modes": [1, 2]},
            "seed_keys": ["model.init_args.adapter.init_args.seed"],
            "learning_rates": [0.1],
        },
    },
    "learning_rates": [0.01, 0.1],
    "seeds": [0, 1],
}


@contextlib.contextmanager
def working_in(folder: Path) -> Any:
    """Change to a folder and back."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def compare_tensors(one: Path, other: Path) -> str | None:
    """Tell how the tensors of two files differ in any bit."""
    left, right = load_file(one), load_file(other)
    if left.keys() != right.keys():
        return f"{one.name}: other tensors than without the damage"
    for name, value in left.items():
        if value.dtype != right[name].dtype or not torch.equal(value, right[name]):
            return f"{one.name}: {name} differs from that without the damage"
    return None
