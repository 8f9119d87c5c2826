"""Ranks and singular values of weight updates per layer (the paper's Fig. 3 and 5)."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from tera_pl.reporting.drawing import add_legend, method_style, style
from tera_pl.reporting.groups import Group
from tera_pl.reporting.selections import NoDataError, mean_ranks, mean_spectra

# Width of a panel in inches, the share of it inside of the axes, and the share of a layer in which
# the markers of all methods lie.
PANEL, INSIDE, SPREAD = 3.6, 0.85, 0.8


def _marker_size(layers: int, series: int) -> float:
    """Give the size in points at which the markers of a layer do not cover each other."""
    layer = 72 * PANEL * INSIDE / (layers - 1 + SPREAD)
    return min(5.0, max(1.5, SPREAD * layer / series))


def draw_ranks(groups: Mapping[str, Group], *, by_method: bool) -> Figure:
    """Draw the rank of every layer, one panel per module.

    Args:
        groups: Runs by label.
        by_method: Whether each group is a method, with a style of its own and a logarithmic axis.

    Returns:
        The figure.

    Raises:
        NoDataError: If no run has ranks.
    """
    ranks = {label: mean_ranks(group) for label, group in groups.items()}
    modules = list(dict.fromkeys(module for found in ranks.values() for module in found))
    if not modules:
        raise NoDataError("no run has ranks.csv with a row")
    legend = 2.2 if len(ranks) < 16 else 3.2
    figure = Figure(figsize=(PANEL * len(modules) + legend, 3.6), layout="constrained")
    panels = figure.subplots(1, len(modules), squeeze=False)[0]
    for axes, module in zip(panels, modules, strict=True):
        for index, (label, found) in enumerate(ranks.items()):
            if module not in found:
                continue
            values, largest = found[module]
            look = method_style(groups[label].method) if by_method else style(index)
            # Shifted sideways: many methods have the same rank.
            shift = SPREAD * ((index + 0.5) / len(ranks) - 0.5) if by_method else 0.0
            layers = [layer + shift for layer in range(len(values))]
            size = _marker_size(len(values), len(ranks)) if by_method else 5
            axes.plot(layers, values, label=label, markersize=size, linewidth=1, **look)
            axes.axhline(largest, color="gray", linestyle="--", linewidth=1)
            axes.set_ylim(0, 1.15 * largest)
        axes.set(title=f"ΔW of {module}", xlabel="layer", ylabel="rank")
        if by_method:
            # Rank 1 and rank 32 differ visibly on an axis up to 4096, which includes 0.
            axes.set_yscale("symlog", base=2, linthresh=1)
            axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    add_legend(figure, panels[0])
    return figure


def draw_spectra(groups: Sequence[Group]) -> Figure:
    """Draw the singular values of weight updates, one panel per module."""
    spectra: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    for group in groups:
        for module, values in mean_spectra(group.runs[0]).items():
            spectra[module][group.method] = values
    if not spectra:
        raise NoDataError("no run has singular_values.npz: older runs do not")
    figure = Figure(figsize=(PANEL * len(spectra) + 2.2, 3.6), layout="constrained")
    panels = figure.subplots(1, len(spectra), squeeze=False)[0]
    for axes, (module, by_method) in zip(panels, spectra.items(), strict=True):
        for method, values in by_method.items():
            axes.plot(
                range(1, len(values) + 1),
                values,
                label=method,
                markevery=max(1, len(values) // 8),
                markersize=5,
                **method_style(method),
            )
        axes.set(title=f"ΔW of {module}", xlabel="index of the singular value", yscale="log")
        axes.set(ylabel="singular value / largest", ylim=(1e-8, 2))
    add_legend(figure, panels[0])
    return figure
