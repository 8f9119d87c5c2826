"""Files of the base model: weights, config and tokenizer that are damaged or others."""

import json
import random
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tests.campaign.case import Case
from tests.campaign.checkpoints import arguments, differs, flip
from tests.campaign.world import RUN, World
from tests.checkpointing.hostile import damaged_content, same

# `fit` has no checkpoint that says what the base was: whatever is whole is another base.
COMMANDS = ["export"] * 6 + ["merge", "test", "predict"]
FILES = (
    ["model.safetensors"] * 4 + ["config.json"] * 3 + ["tokenizer.json", "tokenizer_config.json"]
)


def make(rng: random.Random, folder: Path, world: World) -> Case:
    """A file of the base is damaged after training, or before a new one."""
    name = rng.choice(FILES)
    path = folder / "base" / name
    if name == "model.safetensors":
        changed, known = _weights(rng, path)
    else:
        changed, known = _text(rng, path)
    if rng.random() < 0.15:
        args = ["fit", "--config", "config.yaml", "--trainer.max_steps=1", *QUICK]
        # A tensor that is missing, or of another shape, would be drawn anew.
        expect = "refuse" if known == "unusable" else "either"
        odd = None if known == "same" else "other base"
        return Case(f"{name}: {changed}", args, expect, stops=True, oddity=odd)
    args = arguments(rng.choice(COMMANDS))
    expect = "refuse" if known in {"unusable", "other"} else "either"
    return Case(
        f"{name}: {changed}",
        args,
        expect,
        wrong=lambda work: differs(world, work, args),
        writes=(RUN, "out"),
    )


QUICK = ("--model.init_args.metric=null", "--trainer.limit_val_batches=0")


def _weights(rng: random.Random, path: Path) -> tuple[str, str]:
    """Damage bytes, or write other tensors; tell whether those are unusable, others or the same."""
    whole = load_file(path)
    if rng.random() < 0.5:
        changed, content = flip(rng, path.read_bytes())
        path.write_bytes(content)
    else:
        changed, tensors = next(damaged_content(whole, rng.randrange(2**32), 1))
        tensors = {k: v.contiguous() for k, v in tensors.items() if isinstance(v, torch.Tensor)}
        save_file(tensors, path, {"format": "pt"})
    try:
        found = load_file(path)
    except (SafetensorError, ValueError, OSError, KeyError, RuntimeError):
        return changed, "unusable"
    if found.keys() != whole.keys() or any(found[n].shape != v.shape for n, v in whole.items()):
        return changed, "unusable"
    # Of another type, cast to the one that is configured, a weight may be the same.
    alike = {n: v.to(whole[n].dtype) for n, v in found.items()}
    return changed, "same" if same(alike, whole) else "other"


def _text(rng: random.Random, path: Path) -> tuple[str, str]:
    if rng.random() < 0.4:
        changed, content = flip(rng, path.read_bytes())
        path.write_bytes(content)
        try:
            json.loads(content)
        except ValueError:
            return changed, "unusable"
        return changed, "unknown"
    whole = json.loads(path.read_text())
    changed, content = next(damaged_content(whole, rng.randrange(2**32), 1))
    for tensor in [k for k, v in content.items() if isinstance(v, torch.Tensor)]:
        del content[tensor]
    path.write_text(json.dumps(content))
    return changed, "unknown"
