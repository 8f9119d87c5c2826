"""How figures look: colors, markers, files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.text import Text

from tera_pl.checkpointing.atomic_writes import open_atomically
from tera_pl.reporting.groups import FULL, NAMES

# Okabe and Ito's colors, told apart by color-blind readers. Their yellow is pale in print.
COLORS = ("#D55E00", "#0072B2", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "*", "h", "d", "8", "H")
LINES = ("-", "--", ":")
_METHODS = ("TeRA", "LoRA", "HiRA", "VeRA", "LoRETTA", "RandLoRA", "TeRA_iden", "DoRA")
_ORDER = (*_METHODS, *(name for name in NAMES.values() if name not in _METHODS), FULL)
SUFFIXES = ("png", "svg")


def style(number: int) -> dict[str, Any]:
    """Give the color, marker and line of the n-th series: no two of a dozen share them all."""
    return {
        "color": COLORS[number % len(COLORS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": LINES[number // len(COLORS) % len(LINES)],
    }


def method_style(method: str) -> dict[str, Any]:
    """Give those of a method, which are the same in every figure."""
    return style(_ORDER.index(method) if method in _ORDER else len(_ORDER))


def _texts(figure: Figure) -> Iterator[Text]:
    """Give titles, labels and legends; the numbers on a logarithmic axis are formulas."""
    for legend in figure.legends:
        yield from legend.get_texts()
    for axes in figure.axes:
        yield from (axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG and SVG, the same bytes for the same figure.

    Args:
        figure: The figure.
        path: Where to, without a suffix.
    """
    for text in _texts(figure):
        text.set_parse_math(False)  # a `$` of a setting begins no formula
    with matplotlib.rc_context({"svg.hashsalt": path.name}):
        for suffix in SUFFIXES:
            metadata = {"Date": None} if suffix == "svg" else {"Software": None}
            with open_atomically(path.with_name(f"{path.name}.{suffix}")) as file:
                figure.savefig(file, format=suffix, dpi=150, metadata=metadata)
