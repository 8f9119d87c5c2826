"""Checkpoints: bytes and entries that are damaged, changed and exchanged."""

import copy
import json
import random
from pathlib import Path
from typing import Any

import torch

from tera_pl.checkpointing.checkpoint_io import DIGESTS, AtomicCheckpointIO
from tests.campaign.case import Case
from tests.campaign.world import LAST, RUN, World, compare_tensors
from tests.checkpointing.hostile import damaged_content, same

# Where an exported adapter is compared, it is the quickest way to meet a checkpoint.
COMMANDS = ["export"] * 20 + ["merge", "test", "validate", "predict", "fit"]
IO = AtomicCheckpointIO()


def make(rng: random.Random, folder: Path, world: World) -> Case:
    """A damaged checkpoint, met by a command that reads one."""
    name = rng.choice(["bytes", "bytes", "entries", "entries", "edited", "exchanged", "foreign"])
    changed, expect = {
        "bytes": _bytes,
        "entries": _entries,
        "edited": _edited,
        "exchanged": _exchanged,
        "foreign": _foreign,
    }[name](rng, folder, world)
    args = arguments(rng.choice(COMMANDS))
    meant = name == "edited"  # with checksums of its own: another checkpoint, not a damaged one
    return Case(
        f"{name}: {changed}",
        args,
        expect,
        wrong=_nothing_else if meant else lambda work: differs(world, work, args),
        writes=(RUN, "out"),
        oddity="edited checkpoint" if meant else None,
    )


def arguments(command: str) -> list[str]:
    """Give the command line of a command on the last checkpoint."""
    if command in {"export", "merge"}:
        more = ["--merge"] if command == "merge" else []
        return ["export", "--ckpt_path", LAST, "--output", "out/model", *more]
    more = ["--trainer.max_steps", "4"] if command == "fit" else []
    return [command, "--config", "config.yaml", "--ckpt_path", LAST, *more]


def differs(world: World, work: Path, args: list[str]) -> str | None:
    """Compare what a command has written with what it writes without the damage, to the bit."""
    whole = world.fresh(*args)
    if args[0] == "export":
        names = sorted(p.name for p in (whole / "out/model").iterdir())
        if names != sorted(p.name for p in (work / "out/model").iterdir()):
            return "other files than without the damage"
        for path in (work / "out/model").glob("*.safetensors"):
            if told := compare_tensors(path, whole / "out/model" / path.name):
                return told
    if args[0] == "fit":
        one, other = (torch.load(p / LAST, weights_only=True) for p in (work, whole))
        if not same(one["state_dict"], other["state_dict"]):
            return "training went on to other weights than without the damage"
    stage = {"fit": "fit", "test": "test", "validate": "validate"}.get(args[0])
    if stage:
        one, other = (json.loads((p / RUN / "results.json").read_text()) for p in (work, whole))
        if one[stage]["scores"] != other[stage]["scores"]:
            return f"scores {one[stage]['scores']} instead of {other[stage]['scores']}"
    return None


def _nothing_else(work: Path) -> str | None:
    return None


def flip(rng: random.Random, content: bytes) -> tuple[str, bytes]:
    """Damage the bytes of a file in one way."""
    kind = rng.choice(["bit", "bit", "bit", "cut", "swap", "zeros", "more", "nothing"])
    damaged = bytearray(content)
    place = rng.randrange(len(content))
    if kind == "bit":
        damaged[place] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del damaged[place:]
    elif kind == "swap":
        other = rng.randrange(len(content))
        a, b = bytes(damaged[place : place + 16]), bytes(damaged[other : other + 16])
        damaged[place : place + len(b)], damaged[other : other + len(a)] = b, a
    elif kind == "zeros":
        size = min(rng.choice([1, 64, 512]), len(content) - place)
        damaged[place : place + size] = bytes(size)
    elif kind == "more":
        damaged += bytes(rng.randrange(1, 100))
    else:
        damaged.clear()
    return f"{kind} at byte {place} of {len(content)}", bytes(damaged)


def _bytes(rng: random.Random, folder: Path, world: World) -> tuple[str, str]:
    changed, content = flip(rng, (folder / LAST).read_bytes())
    (folder / LAST).write_bytes(content)
    return changed, "either"


def _entries(rng: random.Random, folder: Path, world: World) -> tuple[str, str]:
    """An entry is changed below the checksums: as edited by a tool that knows nothing of them."""
    whole = world.checkpoint
    changed, content = next(damaged_content(whole, rng.randrange(2**32), 1))
    torch.save(content, folder / LAST)
    return changed, "either" if same(content, dict(whole)) else "refuse"


def _edited(rng: random.Random, folder: Path, world: World) -> tuple[str, str]:
    """An entry is changed and the checksums with it: must end in order, whatever is in it."""
    content = {k: v for k, v in world.checkpoint.items() if k != DIGESTS}
    changed, content = next(damaged_content(content, rng.randrange(2**32), 1))
    IO.save_checkpoint(content, folder / LAST)
    unusable = changed.startswith(("nan (", "infinite (", "integer (", "reshape ("))
    trained = changed.split("(", 1)[1].startswith("'state_dict'")
    return changed, "refuse" if unusable and trained else "either"


def _exchanged(rng: random.Random, folder: Path, world: World) -> tuple[str, str]:
    """Two trained tensors of one shape change places, or the whole file is another run's."""
    content = copy.deepcopy(dict(world.checkpoint))
    state = content["state_dict"]
    names = sorted(state)
    one = rng.choice(names)
    alike = [n for n in names if n != one and state[n].shape == state[one].shape]
    if not alike or torch.equal(state[one], state[other := rng.choice(alike)]):
        content[DIGESTS] = dict.fromkeys(content[DIGESTS], "0" * 64)
        other = "the checksums"
    else:
        state[one], state[other] = state[other], state[one]
    torch.save(content, folder / LAST)
    return f"{one} and {other}", "refuse"


class _Runs:
    """What a pickle would run: writes a file that nobody asked for."""

    def __reduce__(self) -> Any:
        return open, ("executed", "w")


def _foreign(rng: random.Random, folder: Path, world: World) -> tuple[str, str]:
    """Something else is in the place of the checkpoint."""
    path = folder / LAST
    kind = rng.choice(["pickle", "state_dict", "text", "adapter", "folder", "missing", "list"])
    if kind in {"folder", "missing"}:
        path.unlink()
        if kind == "folder":
            path.mkdir()
    elif kind == "text":
        path.write_text("no checkpoint\n")
    elif kind == "adapter":
        path.write_bytes((folder / RUN / "adapter/adapter_model.safetensors").read_bytes())
    else:
        whole = world.checkpoint
        torch.save(
            {
                "pickle": {**whole, "more": _Runs()},
                "state_dict": whole["state_dict"],
                "list": [1, 2],
            }[kind],
            path,
        )
    return kind, "refuse"
