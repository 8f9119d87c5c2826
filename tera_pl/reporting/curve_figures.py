"""Scores and losses of TeRA and TeRA_iden during training (the paper's Fig. 6)."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from tera_pl.reporting.drawing import add_legend, method_style
from tera_pl.reporting.groups import Group
from tera_pl.reporting.selections import NoDataError, identity_pairs, mean_curve

TAGS = ("val/loss", "val/accuracy_average", "val/accuracy", "train/loss")
# Step and value of a logged scalar.
Curve = list[tuple[int, float]]


def draw_curves(groups: Sequence[Group]) -> Figure:
    """Draw TeRA and TeRA_iden of equal settings during training."""
    # Of several pairs the one with most logged scalars.
    curves = max((_curves_of(pair) for pair in identity_pairs(groups)), key=len)
    if not curves:
        raise NoDataError("no score was logged more than once during training")
    figure = Figure(figsize=(3.4 * len(curves) + 1.2, 3.4), layout="constrained")
    panels = figure.subplots(1, len(curves), squeeze=False)[0]
    for axes, (tag, by_method) in zip(panels, curves.items(), strict=True):
        for method, runs in by_method.items():
            look = method_style(method) | {"linestyle": "-" if method == "TeRA" else "--"}
            for points in runs:
                axes.plot(*zip(*points, strict=True), **look | {"marker": ""}, linewidth=0.5)
            axes.plot(*mean_curve(runs), label=method, markersize=5, **look)
        axes.set(xlabel="step", ylabel=tag, yscale="log" if tag.endswith("loss") else "linear")
    add_legend(figure, panels[0])
    return figure


def _curves_of(groups: Sequence[Group]) -> dict[str, dict[str, list[Curve]]]:
    """Return the scalars that all runs logged more than once, by tag and method."""
    curves = {}
    for tag in TAGS:
        by_method = {group.method: [run.curve(tag) for run in group.runs] for group in groups}
        if all(len(points) > 1 for runs in by_method.values() for points in runs):
            curves[tag] = by_method
    return curves
