"""The figures of docs/theory.md."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from tera_pl.tensor import plan_modes
from tera_pl.theory.approximation import Approximation

# Okabe and Ito's colors, which color-blind readers can distinguish; markers differ too.
BLUE, ORANGE, GREEN, BLACK = "#0072B2", "#E69F00", "#009E73", "#000000"


def draw_counts() -> Figure:
    """Draw trainable parameters by order, for a 4096 x 4096 weight update of full rank."""
    figure = Figure(figsize=(5, 3.4), layout="constrained")
    axes = figure.add_subplot()
    orders = range(1, 13)
    both = [2 * sum(plan_modes(4096, order)) for order in orders]
    axes.plot([2 * o for o in orders], both, "o-", color=BLUE, label="TeRA, both sizes factorized")
    one = [4096 + sum(plan_modes(4096, order)) for order in orders]
    axes.plot([1 + o for o in orders], one, "s-", color=ORANGE, label="TeRA, one size factorized")
    axes.axhline(8192, linestyle="--", color=BLACK, label="HiRA (r = 1), VeRA (r = 4096)")
    axes.set(xlabel="order of the update, N", ylabel="trainable parameters", yscale="log")
    axes.legend(frameon=False)
    return figure


def draw_errors(approximations: Sequence[Approximation]) -> Figure:
    """Draw errors by order, beside the error that as many free entries would leave."""
    figure = Figure(figsize=(5, 3.4), layout="constrained")
    axes = figure.add_subplot()
    styles = {("full rank", "normal"): (BLUE, "o-"), ("full rank", "rademacher"): (BLUE, "o:")}
    styles |= {("rank 4", "normal"): (GREEN, "s-"), ("rank 4", "rademacher"): (GREEN, "s:")}
    for (target, core), (color, style) in styles.items():
        rows = [row for row in approximations if (row.target, row.inits[0]) == (target, core)]
        errors = [row.error for row in rows]
        label = f"update of {target}, core {core}"
        axes.plot([row.order for row in rows], errors, style, color=color, label=label)
    free = {row.order: 1 - row.trainable_params / row.entries for row in approximations}
    axes.plot(
        *zip(*free.items(), strict=True), "--", color=BLACK, label="1 - trainable params / entries"
    )
    axes.set(xlabel="order of the update, N", ylabel="squared error / squared norm", ylim=(0.8, 1))
    axes.legend(frameon=False, loc="lower right")
    return figure
