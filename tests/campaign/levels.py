"""How far a command line is taken: what costs less than a run, and meets the same code."""

from typing import Any

from tera_pl.cli import build, guard
from tests.attempts import CheckingCLI


def call_cli(cls: type[CheckingCLI], args: list[str], seen: list[Any]) -> int:
    """Build a command line in place of running it; put it into a list."""

    def run() -> int:
        seen.append(build(cls, args))
        return 0

    return guard(run)
