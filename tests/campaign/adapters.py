"""Adapters in PEFT's format: what plain `peft` loads of a damaged one."""

import copy
import json
import random
import shutil
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tera_pl.errors import UserError
from tests.campaign.case import Case
from tests.campaign.checkpoints import flip
from tests.campaign.world import RUN, World
from tests.checkpointing.hostile import damaged_content, same

# What plain peft says of a file that it cannot read is its own.
ERRORS = (UserError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError, OSError)


def make(rng: random.Random, folder: Path, world: World) -> Case:
    """A damaged adapter that is loaded as anybody would."""
    place = folder / "mine"
    shutil.copytree(folder / RUN / "adapter", place)
    kind = rng.choice(["bytes", "bytes", "tensors", "settings", "settings", "settings"])
    path = place / "adapter_model.safetensors"
    expect = "either"
    if kind == "bytes":
        changed, content = flip(rng, path.read_bytes())
        path.write_bytes(content)
    elif kind == "tensors":
        whole = load_file(path)
        changed, content = next(damaged_content(whole, rng.randrange(2**32), 1))
        content = {k: v.contiguous() for k, v in content.items() if isinstance(v, torch.Tensor)}
        save_file(content, path, {"format": "pt"})
        expect = "either" if same(content, whole) else "refuse"
    else:
        changed, expect = _settings(rng, place / "adapter_config.json")

    def call(args: list[str]) -> int:
        try:
            model = peft.PeftModel.from_pretrained(copy.deepcopy(world.base), place)
        except ERRORS as error:
            import sys

            sys.stderr.write(
                f"error: {type(error).__name__}: {' '.join(str(error).split())[:900]}\n"
            )
            return 2
        found.append(outputs(model))
        return 0

    found: list[Any] = []

    def wrong(work: Path) -> str | None:
        whole = peft.PeftModel.from_pretrained(
            copy.deepcopy(world.base), world.folder / RUN / "adapter"
        )
        return None if same(found[0], outputs(whole)) else "other outputs than the whole adapter"

    return Case(f"{kind}: {changed}", ["(peft)", "mine"], expect, wrong, writes=(), call=call)


@torch.no_grad()
def outputs(model: Any) -> torch.Tensor:
    """Logits of a short text."""
    return model.eval()(input_ids=torch.arange(4, 12)[None]).logits


def _settings(rng: random.Random, path: Path) -> tuple[str, str]:
    whole = json.loads(path.read_text())
    key = rng.choice(sorted(whole))
    value = rng.choice(["absent", None, "x", -1, 7, [], {}, ["nope"]])
    content = {k: v for k, v in whole.items() if k != key}
    if value != "absent":
        content[key] = value
    path.write_text(json.dumps(content))
    unchanged = value == whole[key] and type(value) is type(whole[key])
    # Without target modules, PEFT takes those that it knows for Llama: the same ones.
    refuse = key.endswith("_sha256") and not unchanged
    return f"{key}: {value!r}", "refuse" if refuse else "either"
