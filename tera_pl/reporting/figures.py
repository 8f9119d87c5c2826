"""The paper's figures for any set of runs."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.ticker import (
    LogLocator,
    MaxNLocator,
    NullFormatter,
    ScalarFormatter,
    StrMethodFormatter,
)

from tera_pl.reporting.drawing import method_style, style
from tera_pl.reporting.groups import NO_ADAPTERS, Group
from tera_pl.reporting.layouts import Column
from tera_pl.reporting.selections import (
    NoDataError,
    best_groups,
    identity_pairs,
    mean_curve,
    mean_ranks,
    mean_spectra,
    order_of,
    scores_of,
    several,
    tensorizations,
)

CURVES = ("val/loss", "val/accuracy_average", "val/accuracy", "train/loss")
CAPTIONS = {
    "score_against_trained": "Test {} against trained numbers; the area of a mark grows with the "
    "rank of ΔW over the largest possible one, mean over layers; bars are a standard deviation "
    "over seeds (the paper's Fig. 1); right: adapters alone. Hollow marks: no rank known.",
    "ranks": "Numerical rank of ΔW per layer after training, mean over seeds, of every method's "
    "best-scoring setting, lines a little apart sideways; gray: the largest possible rank "
    "(Fig. 3).",
    "tensorization_scores": "Test {} of tensorizations of TeRA against trained numbers (Fig. 4), "
    "and against the number of modes; where both sides are split, output x input.",
    "tensorization_ranks": "Numerical rank of ΔW per layer after training, mean over seeds, for "
    "tensorizations of TeRA (output x input modes; Fig. 5).",
    "identity_factors": "TeRA (solid) and TeRA_iden, its frozen factors identities (dashed), over "
    "training; thin: single seeds (Fig. 6).",
    "spectra": "Singular values of ΔW after training over the largest one, mean over layers, first "
    "seed of every method's best-scoring setting.",
}


@dataclass(frozen=True)
class Drawing:
    """A figure, or why there is none.

    Args:
        name: What its files are called.
        caption: What it shows, and the paper's figure it is like.
        figure: The figure, or null.
        missing: What the runs lack for it.
    """

    name: str
    caption: str
    figure: Figure | None = None
    missing: str = ""


def draw_all(groups: Sequence[Group], headline: Column) -> list[Drawing]:
    """Draw what the runs of one benchmark and base model have data for.

    Args:
        groups: Runs by method.
        headline: The score that stands for all.

    Returns:
        Figures, and the reasons for those that are left out.
    """
    best = best_groups(groups, headline)
    splits = tensorizations(groups, headline)
    score = headline.title
    drawings: dict[str, Callable[[], Figure]] = {
        "score_against_trained": lambda: draw_scores(groups, headline),
        "ranks": lambda: draw_ranks({group.method: group for group in best}, by_method=True),
        "tensorization_scores": lambda: draw_tensorizations(splits, headline),
        "tensorization_ranks": lambda: draw_ranks(several(splits), by_method=False),
        "identity_factors": lambda: draw_curves(groups),
        "spectra": lambda: draw_spectra(best),
    }
    return [_attempt(name, CAPTIONS[name].format(score), draw) for name, draw in drawings.items()]


def draw_scores(groups: Sequence[Group], headline: Column) -> Figure:
    """Draw score, trained numbers and rank of every group; adapters once more by themselves."""
    known = [group for group in groups if group.trained and scores_of(group, headline)]
    if not known:
        raise NoDataError("no run has both a score and a count of trained numbers")
    adapters = [group for group in known if group.method not in NO_ADAPTERS]
    # Full fine-tuning trains a thousand times as much, and prompts score far below.
    sets = [known, adapters] if 1 < len(adapters) < len(known) else [known]
    figure = Figure(figsize=(3.6 * len(sets) + 2.2, 3.6), layout="constrained")
    panels = figure.subplots(1, len(sets), squeeze=False)[0]
    for axes, some in zip(panels, sets, strict=True):
        _scatter(axes, some, headline)
        _label_trained(axes, headline)
    _legend(figure, panels[0])
    if len(sets) > 1:
        panels[1].set_title("adapters")
    return figure


def _scatter(axes: Axes, groups: Sequence[Group], headline: Column) -> None:
    """Draw groups that have a score and a count."""
    labels = _labels_with_ranks(groups)
    for group in groups:
        assert group.trained is not None
        scores = scores_of(group, headline)
        found = mean_ranks(group).values()
        shares = [rank / largest for values, largest in found for rank in values]
        look = method_style(group.method)
        axes.errorbar(
            group.trained,
            mean(scores),
            _sd(scores),
            color=look["color"],
            capsize=2,
            linewidth=0.8,
            zorder=1,
        )
        axes.scatter(
            group.trained,
            mean(scores),
            s=12 + 70 * mean(shares) if shares else 30,
            marker=look["marker"],
            facecolor=look["color"] if shares else "none",
            edgecolor=look["color"],
            alpha=0.8,
            # Several settings of a method share a line of the legend.
            label=labels.pop(group.method, None),
        )


def _labels_with_ranks(groups: Sequence[Group]) -> dict[str, str]:
    """Name every method with the mean rank of its updates, from the smallest to the largest."""
    ranks: dict[str, list[float]] = defaultdict(list)
    for group in groups:
        found = [rank for values, _ in mean_ranks(group).values() for rank in values]
        ranks[group.method] += [mean(found)] if found else []
    labels = {}
    for method, means in ranks.items():
        span = dict.fromkeys(f"{rank:.0f}" for rank in (min(means), max(means))) if means else {}
        labels[method] = f"{method}, rank {' to '.join(span)}" if span else method
    return labels


def draw_ranks(groups: Mapping[str, Group], *, by_method: bool) -> Figure:
    """Draw the rank of every layer, one panel per module."""
    ranks = {label: mean_ranks(group) for label, group in groups.items()}
    modules = list(dict.fromkeys(module for found in ranks.values() for module in found))
    if not modules:
        raise NoDataError("no run has ranks.csv with a row")
    legend = 2.2 if len(ranks) < 16 else 3.2
    figure = Figure(figsize=(3.6 * len(modules) + legend, 3.6), layout="constrained")
    panels = figure.subplots(1, len(modules), squeeze=False)[0]
    for axes, module in zip(panels, modules, strict=True):
        for number, (label, found) in enumerate(ranks.items()):
            if module not in found:
                continue
            values, largest = found[module]
            look = method_style(groups[label].method) if by_method else style(number)
            # Beside each other, not on each other: many methods have the same rank.
            aside = 0.5 * (number / len(ranks) - 0.5) if by_method else 0.0
            layers = [layer + aside for layer in range(len(values))]
            axes.plot(layers, values, label=label, markersize=5, **look)
            axes.axhline(largest, color="gray", linestyle="--", linewidth=1)
            axes.set_ylim(0, 1.15 * largest)
        axes.set(title=f"ΔW of {module}", xlabel="layer", ylabel="rank")
        if by_method:
            # Rank 1 and rank 32 shall be told apart below 4096, and 0 is a rank.
            axes.set_yscale("symlog", base=2, linthresh=1)
            axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(figure, panels[0])
    return figure


def draw_tensorizations(splits: Mapping[str, Group], headline: Column) -> Figure:
    """Draw score against trained numbers, and against order, for sides that are split or whole."""
    figure = Figure(figsize=(9.4, 3.6), layout="constrained")
    by_numbers, by_order = figure.subplots(1, 2)
    kinds = {"11": "no side split", "01": "output split", "10": "input split", "00": "both split"}
    drawn = dict.fromkeys(kinds, 0)
    for modes, group in several(splits).items():
        scores = scores_of(group, headline)
        if not scores or group.trained is None:
            continue
        sides = modes.split(" ")[::2][:2]
        kind = "".join(str(int(side == "1")) for side in sides)
        look = style(list(kinds).index(kind)) | {"linestyle": "none", "capsize": 2}
        label = None if drawn[kind] else kinds[kind]
        by_numbers.errorbar(group.trained, mean(scores), _sd(scores), label=label, **look)
        order = order_of(modes)
        if order is not None:
            # Several ways to split both sides have the same order.
            aside = 0.12 * (drawn[kind] % 5 - 2) if kind == "00" else 0.0
            by_order.errorbar(order + aside, mean(scores), _sd(scores), **look)
            if kind == "00":
                by_order.annotate(
                    modes.replace(" ", ""),
                    (order + aside, mean(scores)),
                    (4, -9),
                    textcoords="offset points",
                    fontsize=6,
                )
        drawn[kind] += 1
    _label_trained(by_numbers, headline)
    by_order.set(xlabel="modes of the update, N", ylabel=f"{headline.title}, %")
    by_order.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(figure, by_numbers)
    return figure


def draw_curves(groups: Sequence[Group]) -> Figure:
    """Draw TeRA and TeRA_iden of the same settings over training."""
    # Of several pairs, that with the most to see.
    curves = max((_curves_of(pair) for pair in identity_pairs(groups)), key=len)
    if not curves:
        raise NoDataError("no score was logged more than once over training")
    figure = Figure(figsize=(3.4 * len(curves) + 1.2, 3.4), layout="constrained")
    panels = figure.subplots(1, len(curves), squeeze=False)[0]
    for axes, (tag, found) in zip(panels, curves.items(), strict=True):
        for method, runs in found.items():
            look = method_style(method) | {"linestyle": "-" if method == "TeRA" else "--"}
            for points in runs:
                axes.plot(*zip(*points, strict=True), **look | {"marker": ""}, linewidth=0.5)
            axes.plot(*mean_curve(runs), label=method, markersize=5, **look)
        axes.set(xlabel="step", ylabel=tag, yscale="log" if tag.endswith("loss") else "linear")
    _legend(figure, panels[0])
    return figure


def _curves_of(groups: Sequence[Group]) -> dict[str, dict[str, list[list[tuple[int, float]]]]]:
    """Give what all runs of some groups logged more than once: by tag and method, every run."""
    curves = {}
    for tag in CURVES:
        found = {group.method: [run.curve(tag) for run in group.runs] for group in groups}
        if all(len(points) > 1 for runs in found.values() for points in runs):
            curves[tag] = found
    return curves


def draw_spectra(groups: Sequence[Group]) -> Figure:
    """Draw the singular values of updates, one panel per module."""
    found: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    for group in groups:
        for module, values in mean_spectra(group.runs[0]).items():
            found[module][group.method] = values
    if not found:
        raise NoDataError("no run has singular_values.npz: older runs do not")
    figure = Figure(figsize=(3.6 * len(found) + 2.2, 3.6), layout="constrained")
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    for axes, (module, by_method) in zip(panels, found.items(), strict=True):
        for method, values in by_method.items():
            look = method_style(method)
            every = max(1, len(values) // 8)
            axes.plot(
                range(1, len(values) + 1),
                values,
                label=method,
                markevery=every,
                markersize=5,
                **look,
            )
        axes.set(title=f"ΔW of {module}", xlabel="index of the singular value", yscale="log")
        axes.set(ylabel="singular value / largest", ylim=(1e-8, 2))
    _legend(figure, panels[0])
    return figure


def _attempt(name: str, caption: str, draw: Callable[[], Figure]) -> Drawing:
    try:
        return Drawing(name, caption, draw())
    except NoDataError as error:
        return Drawing(name, caption, missing=str(error))


def _sd(values: Sequence[float]) -> float:
    return stdev(values) if len(values) > 1 else 0.0


def _label_trained(axes: Axes, headline: Column) -> None:
    axes.set(xscale="log", xlabel="trained numbers", ylabel=f"{headline.title}, %")
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1,) if high > 50 * low else (1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", labelrotation=45)


def _legend(figure: Figure, axes: Axes) -> None:
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
