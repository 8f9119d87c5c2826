"""Select and average the data that figures show."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

import numpy as np

from tera_pl.reporting.groups import Group
from tera_pl.reporting.layouts import Column
from tera_pl.reporting.runs import Run

MODE_FIELDS = ("out_modes", "in_modes")


class NoDataError(ValueError):
    """The runs lack the data of a figure."""


def scores_of(group: Group, column: Column) -> list[float]:
    """Return the score of every run of a group, or an empty list if a run lacks it."""
    scores = [column.value(run) for run in group.runs]
    known = [score for score in scores if score is not None]
    return known if len(known) == len(scores) else []


def best_groups(groups: Sequence[Group], headline: Column) -> list[Group]:
    """Return the best-scoring group of every method that has a score."""
    best: dict[str, Group] = {}
    for group in groups:
        scores = scores_of(group, headline)
        known = best.get(group.method)
        if scores and known is not None:
            best[group.method] = _best([known, group], headline)
        elif scores:
            best[group.method] = group
    return list(best.values())


def tensorizations_of(groups: Sequence[Group], headline: Column) -> dict[str, Group]:
    """Select the groups of TeRA that differ only in their modes.

    The learning rate may differ too, since it is searched for each tensorization.

    Args:
        groups: Groups of any method.
        headline: The score by which one of several learning rates is chosen.

    Returns:
        Groups by their modes, as `output x input`. Of several such sets the largest.
    """
    sets: dict[str, dict[str, list[Group]]] = defaultdict(lambda: defaultdict(list))
    for group in groups:
        if group.method == "TeRA":
            ignored = (*MODE_FIELDS, "optimizer.lr")
            shared = {k: v for k, v in group.fields.items() if not k.endswith(ignored)}
            sets[str(shared)][_modes(group)].append(group)
    largest = max(sets.values(), key=len, default={})
    return {modes: _best(largest[modes], headline) for modes in sorted(largest)}


def check_comparable(tensorizations: Mapping[str, Group]) -> Mapping[str, Group]:
    """Return tensorizations unchanged, or raise if there are fewer than two."""
    if len(tensorizations) < 2:
        raise NoDataError("fewer than two tensorizations of TeRA with otherwise equal settings")
    return tensorizations


def order_of(modes: str) -> int | None:
    """Parse the order of a tensorization.

    Args:
        modes: Its modes, a key of `tensorizations_of`.

    Returns:
        The number of modes, N of the paper, or None if it is not the same for all layers or the
        runs do not state it.
    """
    counts = [part.count(",") + 1 if "[" in part else part for part in modes.split(" x ")]
    return sum(map(int, counts)) if all(str(count).isdecimal() for count in counts) else None


def identity_pairs(groups: Sequence[Group]) -> list[tuple[Group, Group]]:
    """Return pairs of TeRA and TeRA_iden with otherwise equal settings; raise without any."""

    def shared(group: Group) -> dict[str, Any]:
        return {k: v for k, v in group.fields.items() if k != "adapter.factor_init"}

    pairs = [
        (plain, identity)
        for plain in groups
        for identity in groups
        if (plain.method, identity.method) == ("TeRA", "TeRA_iden")
        and shared(plain) == shared(identity)
    ]
    if not pairs:
        raise NoDataError("no pair of TeRA and TeRA_iden with otherwise equal settings")
    return pairs


def mean_ranks(group: Group) -> dict[str, tuple[list[float], int]]:
    """Average ranks over seeds.

    Args:
        group: Runs of one method.

    Returns:
        By module: the rank of every layer, in order of layers, and the largest possible rank.
    """
    ranks: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    largest: dict[str, int] = {}
    for run in group.runs:
        for row in run.ranks:
            ranks[row["module"]][row["layer"]].append(float(row["rank"]))
            largest[row["module"]] = int(row["max_rank"])
    return {
        module: ([mean(values) for values in layers.values()], largest[module])
        for module, layers in ranks.items()
    }


def mean_curve(runs: Sequence[Sequence[tuple[int, float]]]) -> tuple[list[int], list[float]]:
    """Average curves at the steps that all of them have; return steps and means."""
    by_step = [dict(points) for points in runs]
    steps = sorted(set.intersection(*(set(points) for points in by_step)))
    return steps, [mean([points[step] for points in by_step]) for step in steps]


def mean_spectra(run: Run) -> dict[str, np.ndarray]:
    """Average singular values, each divided by the largest, over the layers of each module."""
    path = run.path / "singular_values.npz"
    if not path.exists():
        return {}
    layers: dict[str, list[np.ndarray]] = defaultdict(list)
    with np.load(path) as arrays:
        for name in arrays.files:
            values = arrays[name]
            if values.size and values[0] > 0:
                layers[name.rpartition(".")[2]].append(values / values[0])
    return {
        module: np.mean([v[: min(map(len, spectra))] for v in spectra], axis=0)
        for module, spectra in layers.items()
    }


def _best(groups: Sequence[Group], headline: Column) -> Group:
    """Return the group with the best score, or the first if none has a score."""
    sign = -1 if headline.lower_is_better else 1

    def score(group: Group) -> float:
        scores = scores_of(group, headline)
        return sign * mean(scores) if scores else float("-inf")

    return max(groups, key=score)


def _modes(group: Group) -> str:
    modes = [group.fields.get(f"adapter.{field}", "?") for field in MODE_FIELDS]
    name = " x ".join(str(value).replace(" ", "") for value in modes)
    patterns = {
        k.removeprefix("adapter.modes_pattern."): v
        for k, v in group.fields.items()
        if k.startswith("adapter.modes_pattern.") and k.endswith(MODE_FIELDS)
    }
    return name + "".join(f" {key}={value}" for key, value in patterns.items())
