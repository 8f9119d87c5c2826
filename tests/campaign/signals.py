"""Signals in the middle of a run: it stops in order and goes on to the same bits."""

import json
import random
import shlex
import signal
import sys
from pathlib import Path

import pytest
import torch

from tera_pl.__main__ import main as call_command
from tera_pl.tasks import CausalLMTask
from tests.campaign.case import Case
from tests.campaign.world import LAST, RUN, World
from tests.checkpointing.hostile import same

NEW = "runs/run/version_1"
HOOKS = ["on_train_batch_start", "on_validation_epoch_start", "on_before_optimizer_step"]
FIT = ["fit", "--config", "config.yaml"]


def make(rng: random.Random, folder: Path, world: World) -> Case:
    """A run gets a signal at a random call of a hook, and is then resumed by what it printed."""
    number = rng.choice([signal.SIGINT, signal.SIGTERM])
    hook, at = rng.choice(HOOKS), rng.randrange(1, 5)
    return interrupt(folder, world, number, hook, at, twice=rng.random() < 0.1)


def interrupt(
    folder: Path, world: World, number: int, hook: str, at: int, *, twice: bool = False
) -> Case:
    """A run gets a signal at the nth call of a hook."""
    told: list[int] = []

    def call(args: list[str]) -> int:
        calls: list[str] = []
        whole = getattr(CausalLMTask, hook)

        def interrupted(task: CausalLMTask, *args: object) -> object:
            calls.append(hook)
            if len(calls) == at:
                for _ in range(1 + twice):
                    signal.raise_signal(number)
            return whole(task, *args)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(CausalLMTask, hook, interrupted)
            code = call_command(args)
        told.append(code)
        return _resume() if code == 1 and not twice else code

    def wrong(work: Path) -> str | None:
        return unlike(world, work) if told != [1] or (work / NEW).exists() else "nothing was saved"

    return Case(
        f"{signal.Signals(number).name} at {hook} {at}{' twice' if twice else ''}",
        FIT,
        "either" if twice else "run",
        wrong,
        writes=("runs",),
        stops=True,
        call=call,
    )


def _resume() -> int:
    """Do what the message of the stopped run says."""
    told = [x for x in sys.stderr.getvalue().splitlines() if x.startswith("stopped: ")]  # type: ignore[attr-defined]
    command = shlex.split(told[-1].partition("python -m tera_pl ")[2])
    return call_command(command or FIT)


def unlike(world: World, work: Path) -> str | None:
    """Compare a run that was stopped and resumed with the run of the template, to the bit."""
    runs = sorted((work / "runs/run").glob("version_*"))
    one = torch.load(runs[-1] / "checkpoints/last.ckpt", weights_only=True)
    other = torch.load(world.folder / LAST, weights_only=True)
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        if not same(one[key], other[key]):
            return f"{key} differs from that of a run without a signal"
    best = [run / "checkpoints/best.ckpt" for run in (runs[-1], world.folder / RUN)]
    steps = [torch.load(path, weights_only=True)["global_step"] for path in best]
    if steps[0] != steps[1]:
        return f"the best checkpoint is of step {steps[0]} instead of {steps[1]}"
    scores = [
        json.loads((run / "results.json").read_text())["fit"]["scores"]
        for run in (runs[-1], world.folder / RUN)
    ]
    return None if scores[0] == scores[1] else f"scores {scores[0]} instead of {scores[1]}"
