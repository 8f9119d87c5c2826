"""Cases from seeds: which kind, in which folder, and what came of all of them."""

import random
import shutil
from collections import Counter
from collections.abc import Iterable

from tests.campaign import (
    adapters,
    bases,
    checkpoints,
    command_lines,
    configs,
    data,
    disks,
    results,
    signals,
    studies,
)
from tests.campaign.case import Result, run_case
from tests.campaign.world import World

# How many of two hundred cases are of a kind; the dear ones are few.
KINDS = {
    configs: 50,
    checkpoints: 40,
    data: 26,
    adapters: 24,
    command_lines: 20,
    results: 14,
    studies: 14,
    bases: 8,
    disks: 3,
    signals: 1,
}
DECK = [kind for kind, count in KINDS.items() for _ in range(count)]


def case(number: int, world: World, only: str | None = None) -> Result | None:
    """Make, run and judge one case; its number is its seed. Nothing for one of another kind."""
    rng = random.Random(number)
    # In turn, so that any two hundred cases have all kinds in their shares.
    deck = DECK.copy()
    random.Random(number // len(deck)).shuffle(deck)
    maker = deck[number % len(deck)]
    kind = maker.__name__.rpartition(".")[2]
    if only not in {None, kind}:
        return None
    place = world.cases / str(number)
    folder = world.copy_to(place)
    try:
        return run_case(number, kind, maker.make(rng, folder, world), folder)
    finally:
        shutil.rmtree(place)


def table(found: Iterable[Result]) -> str:
    """Count outcomes by kind."""
    found = list(found)
    outcomes = sorted({result.outcome for result in found})
    counts = Counter((result.kind, result.outcome) for result in found)
    lines = ["| kind | cases | " + " | ".join(outcomes) + " |", "|---" * (2 + len(outcomes)) + "|"]
    for kind in [*sorted({result.kind for result in found}), ""]:
        cells = [
            sum(n for (k, o), n in counts.items() if k == (kind or k) and o == name)
            for name in outcomes
        ]
        lines.append(f"| {kind or 'all'} | {sum(cells)} | " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def defects(found: Iterable[Result]) -> list[Result]:
    """Give the cases that show a defect."""
    return [result for result in found if result.bad]
