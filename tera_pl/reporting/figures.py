"""The paper's figures for any set of runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from tera_pl.reporting.curve_figures import draw_curves
from tera_pl.reporting.groups import Group
from tera_pl.reporting.layer_figures import draw_ranks, draw_spectra
from tera_pl.reporting.layouts import Column
from tera_pl.reporting.score_figures import draw_scores, draw_tensorizations
from tera_pl.reporting.selections import (
    NoDataError,
    best_groups,
    check_comparable,
    tensorizations_of,
)

CAPTIONS = {
    "score_by_trainable_params": "Test {} by the number of trainable parameters. The area of a "
    "marker grows with the rank of ΔW over the largest possible one, mean over layers; error bars "
    "are one standard deviation over seeds (the paper's Fig. 1). Small, pale: other settings "
    "of a method. Right: adapters only. Hollow markers: unknown rank.",
    "ranks": "Numerical rank of ΔW per layer after training, mean over seeds, of every method's "
    "best-scoring setting; markers of one layer are shifted sideways. Gray: the largest possible "
    "rank (Fig. 3).",
    "tensorization_scores": "Test {} of tensorizations of TeRA by the number of trainable "
    "parameters (Fig. 4), and by order. Labels are output x input modes where both dimensions are "
    "tensorized.",
    "tensorization_ranks": "Numerical rank of ΔW per layer after training, mean over seeds, for "
    "tensorizations of TeRA (output x input modes; Fig. 5).",
    "identity_factors": "TeRA (solid) and TeRA_iden, whose frozen factors are identities (dashed), "
    "during training; thin lines: single seeds (Fig. 6).",
    "spectra": "Singular values of ΔW after training over the largest one, mean over layers, "
    "first seed of every method's best-scoring setting.",
}


@dataclass(frozen=True)
class Drawing:
    """A figure, or the reason why it is missing.

    Args:
        name: Name of its file.
        caption: What it shows, and the corresponding figure of the paper.
        figure: The figure, or None.
        missing: What the runs lack for it.
    """

    name: str
    caption: str
    figure: Figure | None = None
    missing: str = ""


def draw_all(groups: Sequence[Group], headline: Column) -> list[Drawing]:
    """Draw every figure that the runs of one dataset and base model have data for.

    Args:
        groups: Runs by method.
        headline: The score that figures show.

    Returns:
        Figures, and the reasons for those that are missing.
    """
    best = best_groups(groups, headline)
    found = tensorizations_of(groups, headline)
    drawings: dict[str, Callable[[], Figure]] = {
        "score_by_trainable_params": lambda: draw_scores(groups, headline),
        "ranks": lambda: draw_ranks({group.method: group for group in best}, by_method=True),
        "tensorization_scores": lambda: draw_tensorizations(found, headline),
        "tensorization_ranks": lambda: draw_ranks(check_comparable(found), by_method=False),
        "identity_factors": lambda: draw_curves(groups),
        "spectra": lambda: draw_spectra(best),
    }
    return [
        _attempt(name, CAPTIONS[name].format(headline.title), draw)
        for name, draw in drawings.items()
    ]


def _attempt(name: str, caption: str, draw: Callable[[], Figure]) -> Drawing:
    try:
        return Drawing(name, caption, draw())
    except NoDataError as error:
        return Drawing(name, caption, missing=str(error))
