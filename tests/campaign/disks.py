"""A disk that is full: one line, nothing half written, and the user's files as they were."""

import random
import resource
from pathlib import Path
from typing import Any

from tera_pl.__main__ import main as call_command
from tests.campaign import signals
from tests.campaign.case import Case
from tests.campaign.checkpoints import arguments, differs
from tests.campaign.world import RUN, World

COMMANDS = ["export", "export", "merge", "report", "report", "fit", "test"]


def make(rng: random.Random, folder: Path, world: World) -> Case:
    """A command cannot write files above some size: the disk is full in the middle of one."""
    command = rng.choice(COMMANDS)
    size = rng.choice([0, rng.randrange(1_000), rng.randrange(5_000), rng.randrange(40_000)])
    if command == "fit":
        args = signals.FIT
    elif command == "report":
        args = ["report", "runs", "--output", "out"]
    else:
        args = arguments(command)
    return Case(
        f"{command}: no file above {size} bytes",
        args,
        wrong=_wrong(command, world, args),
        writes=(RUN, "out", "runs"),
        stops=True,
        call=lambda args: full(args, size),
    )


def _wrong(command: str, world: World, args: list[str]) -> Any:
    if command == "fit":
        return lambda work: signals.unlike(world, work)
    return lambda work: None if command == "report" else differs(world, work, args)


def full(args: list[str], size: int) -> int:
    """Run a command where no file may be larger than some size: the kernel refuses the rest."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        return call_command(args)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
