"""Style and files of figures."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.text import Text

from tera_pl.checkpointing.atomic_writes import open_atomically
from tera_pl.reporting.groups import FULL, NAMES

# Okabe and Ito's colors, which color-blind readers can distinguish. Their yellow is pale in print.
COLORS = ("#D55E00", "#0072B2", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000")
# The last ones are stars: points, 1, degrees.
STARS = ((3, 1, 0), (4, 1, 0), (6, 1, 0), (8, 1, 0), (3, 1, 60), (4, 1, 45), (5, 1, 36))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "*", "h", "d", "8", "H", *STARS)
LINES = ("-", "--", ":")
_METHODS = ("TeRA", "LoRA", "HiRA", "VeRA", "LoRETTA", "RandLoRA", "TeRA_iden", "DoRA")
_ORDER = (*_METHODS, *(name for name in NAMES.values() if name not in _METHODS), FULL)


def style(index: int) -> dict[str, Any]:
    """Return color, marker and line style of a series; no two of a dozen share all three."""
    return {
        "color": COLORS[index % len(COLORS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": LINES[index // len(COLORS) % len(LINES)],
    }


def method_style(method: str) -> dict[str, Any]:
    """Return the style of a method, which is the same in every figure."""
    return style(_ORDER.index(method) if method in _ORDER else len(_ORDER))


def add_legend(figure: Figure, axes: Axes) -> None:
    """Add a legend of the series of one panel on the right of a figure."""
    handles, labels = axes.get_legend_handles_labels()
    legend = figure.legend(
        handles,
        labels,
        loc="outside right upper",
        frameon=False,
        fontsize=8,
        ncols=1 + (len(labels) - 1) // 15,
    )
    for handle in legend.legend_handles:
        if isinstance(handle, PathCollection):
            handle.set_sizes([30])


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG; equal figures give equal bytes.

    Args:
        figure: The figure.
        path: The file to write.
    """
    for text in _texts(figure):
        text.set_parse_math(False)  # a `$` of a setting does not start a formula
    with open_atomically(path) as file:
        figure.savefig(file, format="png", dpi=150, metadata={"Software": None})


def _texts(figure: Figure) -> Iterator[Text]:
    """Yield titles, labels and legends, but not tick labels: those of logarithmic axes are math."""
    for legend in figure.legends:
        yield from legend.get_texts()
    for axes in figure.axes:
        yield from (axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts)
