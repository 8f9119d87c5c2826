"""Scores by the number of trainable parameters (the paper's Fig. 1 and 4)."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import mean, stdev

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from tera_pl.reporting.drawing import add_legend, method_style, style
from tera_pl.reporting.groups import NO_ADAPTERS, Group
from tera_pl.reporting.layouts import Column
from tera_pl.reporting.selections import (
    NoDataError,
    best_groups,
    check_comparable,
    mean_ranks,
    order_of,
    scores_of,
)

# By whether output and input dimension have one mode each.
KINDS = {
    (True, True): "not tensorized",
    (False, True): "output tensorized",
    (True, False): "input tensorized",
    (False, False): "both tensorized",
}


def draw_scores(groups: Sequence[Group], headline: Column) -> Figure:
    """Draw score, trainable parameters and rank of every group, and again of adapters only."""
    known = [group for group in groups if group.trainable_params and scores_of(group, headline)]
    if not known:
        raise NoDataError("no run has both a score and a count of trainable parameters")
    adapters = [group for group in known if group.method not in NO_ADAPTERS]
    # Full fine-tuning trains a thousand times as much, and prompts score far below.
    sets = [known, adapters] if 1 < len(adapters) < len(known) else [known]
    figure = Figure(figsize=(3.6 * len(sets) + 2.2, 3.6), layout="constrained")
    panels = figure.subplots(1, len(sets), squeeze=False)[0]
    for axes, shown in zip(panels, sets, strict=True):
        _scatter(axes, shown, headline)
        _set_axes(axes, headline)
    add_legend(figure, panels[0])
    if len(sets) > 1:
        panels[1].set_title("adapters")
    return figure


def draw_tensorizations(tensorizations: Mapping[str, Group], headline: Column) -> Figure:
    """Draw score by trainable parameters and by order, for each kind of tensorization."""
    figure = Figure(figsize=(9.4, 3.6), layout="constrained")
    by_params, by_order = figure.subplots(1, 2)
    drawn = dict.fromkeys(KINDS, 0)
    for modes, group in check_comparable(tensorizations).items():
        scores = scores_of(group, headline)
        if not scores or group.trainable_params is None:
            continue
        out_modes, _, in_modes = modes.split(" ")[:3]
        kind = (out_modes == "1", in_modes == "1")
        look = style(list(KINDS).index(kind)) | {"linestyle": "none", "capsize": 2}
        label = None if drawn[kind] else KINDS[kind]
        by_params.errorbar(group.trainable_params, mean(scores), _sd(scores), label=label, **look)
        order = order_of(modes)
        if order is not None:
            both = kind == (False, False)
            # Several tensorizations have the same order.
            side = {(False, True): -0.15, (True, False): 0.15}.get(kind, 0.0)
            shift = 0.12 * (drawn[kind] % 5 - 2) if both else side
            by_order.errorbar(order + shift, mean(scores), _sd(scores), **look)
            if both:
                by_order.annotate(
                    modes.replace(" ", ""),
                    (order + shift, mean(scores)),
                    (4, -9),
                    textcoords="offset points",
                    fontsize=6,
                )
        drawn[kind] += 1
    _set_axes(by_params, headline)
    by_order.set(xlabel="order of the update, N", ylabel=headline.axis_label)
    by_order.margins(x=0.1)  # for the labels
    by_order.xaxis.set_major_locator(MaxNLocator(integer=True))
    add_legend(figure, by_params)
    return figure


def _scatter(axes: Axes, groups: Sequence[Group], headline: Column) -> None:
    """Draw groups that have a score and a count of trainable parameters.

    The other settings of a method are small, and large markers lie below smaller ones.
    """
    labels = _labels_with_ranks(groups)
    best = best_groups(groups, headline)
    points = []
    for group in groups:
        shares = [
            rank / largest for values, largest in mean_ranks(group).values() for rank in values
        ]
        size = 12 + 70 * mean(shares) if shares else 30
        points.append((size if group in best else 8.0, group, bool(shares)))
    for order, (size, group, ranked) in enumerate(sorted(points, key=lambda p: -p[0])):
        assert group.trainable_params is not None
        scores, look = scores_of(group, headline), method_style(group.method)
        is_best = group in best
        x, y = group.trainable_params, mean(scores)
        if is_best:
            line = {"color": look["color"], "capsize": 2, "linewidth": 0.8}
            axes.errorbar(x, y, _sd(scores), zorder=1, **line)
        axes.scatter(
            x,
            y,
            s=size,
            marker=look["marker"],
            facecolor=look["color"] if ranked else "none",
            edgecolor="white" if ranked and is_best else look["color"],
            linewidth=0.5 if ranked else 1.0,
            alpha=0.9 if is_best else 0.4,
            zorder=2 + order,
            # Several settings of a method share a line of the legend.
            label=labels[group.method] if is_best else None,
        )


def _labels_with_ranks(groups: Sequence[Group]) -> dict[str, str]:
    """Label every method with the range of the mean ranks of its weight updates."""
    ranks: dict[str, list[float]] = defaultdict(list)
    for group in groups:
        found = [rank for values, _ in mean_ranks(group).values() for rank in values]
        ranks[group.method] += [mean(found)] if found else []
    labels = {}
    for method, means in ranks.items():
        span = dict.fromkeys(f"{rank:.0f}" for rank in (min(means), max(means))) if means else {}
        labels[method] = f"{method}, rank {' to '.join(span)}" if span else method
    return labels


def _sd(values: Sequence[float]) -> float:
    return stdev(values) if len(values) > 1 else 0.0


def _set_axes(axes: Axes, headline: Column) -> None:
    axes.set(xscale="log", xlabel="trainable parameters", ylabel=headline.axis_label)
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1,) if high > 50 * low else (1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", labelrotation=45)
