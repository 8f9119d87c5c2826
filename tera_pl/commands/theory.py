"""The three theorems in numbers and figures."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from tera_pl.checkpointing.atomic_writes import (
    OVERWRITE_HELP,
    atomic_folder,
    check_target,
    open_atomically,
)
from tera_pl.commands.arguments import Parser
from tera_pl.tensor import CoreInit, FactorInit, TensorNetwork, draw, network_keys, plan_modes
from tera_pl.theory.fitting import best_fit, random_starts
from tera_pl.theory.theorems import error_bound, full_rank_counts

KIND = "theory"
SIZE = 64  # of the update that is approximated
ORDERS = (1, 2, 3, 6)  # modes of each of its dimensions
# Of core and factors: the defaults, and those for which the bound is reached.
INITS: tuple[tuple[CoreInit, FactorInit], ...] = (
    ("normal", "normal"),
    ("rademacher", "orthogonal"),
)
# Okabe and Ito's colors, told apart by color-blind readers; markers differ too.
BLUE, ORANGE, GREEN, BLACK = "#0072B2", "#E69F00", "#009E73", "#000000"


@dataclass(frozen=True)
class Approximation:
    """How near TeRA comes to an update with so many modes, in shares of its squared norm.

    Args:
        target: Which update.
        inits: Distributions of core and factors.
        order: Number of all modes, N.
        trained: Trained numbers.
        reached: Smallest error of several fits.
        bound: Theorem 3 with `g_max` squared and spectral norms.
    """

    target: str
    inits: tuple[str, str]
    order: int
    trained: int
    reached: float
    bound: float


def main(args: Sequence[str]) -> int:
    """Draw the figures of docs/theory.md and print its tables.

    Args:
        args: Arguments of the command.

    Returns:
        0.
    """
    parser = Parser("theory", main.__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder of the figures")
    parser.add_argument("--overwrite", action="store_true", help=OVERWRITE_HELP)
    options = parser.parse_args(args)
    check_target(options.output, KIND, replace=options.overwrite)
    rows = [
        approximate(order, target, name, inits)
        for inits in INITS
        for name, target in targets().items()
        for order in ORDERS
    ]
    with atomic_folder(options.output, KIND, replace=options.overwrite) as folder:
        for name, figure in (("theorem2", draw_counts()), ("theorem3", draw_errors(rows))):
            for suffix in ("png", "svg"):
                with open_atomically(folder / f"{name}.{suffix}") as file:
                    figure.savefig(file, format=suffix, dpi=150)
    sys.stdout.write(count_table() + "\n" + error_table(rows))
    return 0


def targets() -> dict[str, Tensor]:
    """Give updates to approximate: of full rank, and of rank 4, each of unit norm."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    found = {"full rank": normal(SIZE, SIZE), "rank 4": normal(SIZE, 4) @ normal(4, SIZE)}
    return {name: matrix / matrix.norm() for name, matrix in found.items()}


def approximate(
    modes: int, target: Tensor, name: str, inits: tuple[CoreInit, FactorInit]
) -> Approximation:
    """Fit the vectors of a network, with both dimensions in so many modes, to an update."""
    sizes = plan_modes(SIZE, modes)
    ranks = (*sizes, *sizes)
    core, factors = network_keys(sizes, sizes, ranks, 0, *inits)
    starts = random_starts(ranks, 4)
    network = TensorNetwork(draw(core), [draw(f) for f in factors], starts[0], len(sizes))
    bound = error_bound(network, target)
    if bound.nearest is not None:
        starts.append(list(bound.nearest))
    fit = best_fit(network, target, starts)
    return Approximation(name, inits, len(ranks), sum(ranks), fit.error, bound.tight)


def count_table() -> str:
    """Trained numbers of an update of full rank (Theorem 2), as Markdown."""
    lines = [
        "| update | TeRA, fewest | TeRA, most | HiRA | VeRA | LoRA |",
        "|---|---|---|---|---|---|",
    ]
    for rows, columns in ((4096, 4096), (1024, 4096), (4096, 11008)):
        c = full_rank_counts(rows, columns)
        numbers = (c.tera_fewest, c.tera_most, c.hira, c.vera, c.lora)
        lines.append(f"| {rows} x {columns} | " + " | ".join(f"{n:,}" for n in numbers) + " |")
    return "\n".join(lines) + "\n"


def error_table(rows: Sequence[Approximation]) -> str:
    """Errors that are reached, and their bounds (Theorem 3), as Markdown."""
    lines = ["| update | core, factors | N | trained | error reached | bound |", "|---" * 6 + "|"]
    lines += [
        f"| {row.target} | {', '.join(row.inits)} | {row.order} | {row.trained} | "
        f"{row.reached:.3f} | {row.bound:.3g} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def draw_counts() -> Figure:
    """Trained numbers against the order of the tensor, for a 4096 x 4096 update of full rank."""
    figure = Figure(figsize=(5, 3.4), layout="constrained")
    axes = figure.add_subplot()
    orders = range(1, 13)
    numbers = [2 * sum(plan_modes(4096, order)) for order in orders]
    axes.plot([2 * o for o in orders], numbers, "o-", color=BLUE, label="TeRA, both sides split")
    one = [4096 + sum(plan_modes(4096, order)) for order in orders]
    axes.plot([1 + o for o in orders], one, "s-", color=ORANGE, label="TeRA, one side split")
    axes.axhline(8192, linestyle="--", color=BLACK, label="HiRA (r = 1), VeRA (r = 4096)")
    axes.set(xlabel="modes of the update, N", ylabel="trained numbers", yscale="log")
    axes.legend(frameon=False)
    return figure


def draw_errors(rows: Sequence[Approximation]) -> Figure:
    """Errors against the order, beside what as many free entries would leave."""
    figure = Figure(figsize=(5, 3.4), layout="constrained")
    axes = figure.add_subplot()
    styles = {("full rank", "normal"): (BLUE, "o-"), ("full rank", "rademacher"): (BLUE, "o:")}
    styles |= {("rank 4", "normal"): (GREEN, "s-"), ("rank 4", "rademacher"): (GREEN, "s:")}
    for (target, core), (color, style) in styles.items():
        mine = [row for row in rows if (row.target, row.inits[0]) == (target, core)]
        errors = [row.reached for row in mine]
        label = f"update of {target}, core {core}"
        axes.plot([row.order for row in mine], errors, style, color=color, label=label)
    free = [(row.order, 1 - row.trained / SIZE**2) for row in rows[: len(ORDERS)]]
    axes.plot(*zip(*free, strict=True), "--", color=BLACK, label="1 - trained / entries")
    axes.set(xlabel="modes of the update, N", ylabel="squared error / squared norm", ylim=(0.8, 1))
    axes.legend(frameon=False, loc="lower right")
    return figure
