"""What figures show of groups of runs."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

import numpy as np

from tera_pl.reporting.groups import Group
from tera_pl.reporting.layouts import Column
from tera_pl.reporting.runs import Run

SIDES = ("out_modes", "in_modes")


class NoDataError(ValueError):
    """The runs lack what a figure shows."""


def scores_of(group: Group, column: Column) -> list[float]:
    """Give a score of every run, or nothing where one lacks it."""
    found = [column.of(run) for run in group.runs]
    known = [score for score in found if score is not None]
    return known if len(known) == len(found) else []


def best_groups(groups: Sequence[Group], headline: Column) -> list[Group]:
    """Give the best-scoring group of every method that has a score."""
    best: dict[str, Group] = {}
    for group in groups:
        scores = scores_of(group, headline)
        known = best.get(group.method)
        if scores and (known is None or mean(scores) > mean(scores_of(known, headline))):
            best[group.method] = group
    return list(best.values())


def tensorizations(groups: Sequence[Group], headline: Column) -> dict[str, Group]:
    """Give the groups of TeRA that differ in their modes alone.

    The learning rate may differ too, since it is searched for each tensorization.

    Args:
        groups: Groups of any method.
        headline: The score by which one of several learning rates is chosen.

    Returns:
        Groups by their modes, as `output x input`. Of several such sets, that with the most.
    """
    sets: dict[str, dict[str, list[Group]]] = defaultdict(lambda: defaultdict(list))
    for group in groups:
        if group.method == "TeRA":
            ignored = (*SIDES, "optimizer.lr")
            rest = {k: v for k, v in group.fields.items() if not k.endswith(ignored)}
            sets[str(rest)][_modes(group)].append(group)
    most = max(sets.values(), key=len, default={})
    return {modes: _best(most[modes], headline) for modes in sorted(most)}


def several(splits: Mapping[str, Group]) -> Mapping[str, Group]:
    """Give tensorizations back, or raise that there is nothing to compare."""
    if len(splits) < 2:
        raise NoDataError("fewer than two tensorizations of TeRA with otherwise equal settings")
    return splits


def order_of(modes: str) -> int | None:
    """Give the number of modes of a tensorization, or null where its runs do not tell.

    Args:
        modes: Its name, from `tensorizations`.

    Returns:
        N of the paper.
    """
    counts = [side.count(",") + 1 if "[" in side else side for side in modes.split(" x ")]
    return sum(map(int, counts)) if all(str(count).isdecimal() for count in counts) else None


def identity_pairs(groups: Sequence[Group]) -> list[tuple[Group, Group]]:
    """Give TeRA and TeRA_iden of otherwise equal settings, or raise that there are none."""

    def rest(group: Group) -> dict[str, Any]:
        return {k: v for k, v in group.fields.items() if k != "adapter.factor_init"}

    pairs = [
        (plain, identity)
        for plain in groups
        for identity in groups
        if (plain.method, identity.method) == ("TeRA", "TeRA_iden")
        and rest(plain) == rest(identity)
    ]
    if not pairs:
        raise NoDataError("no pair of TeRA and TeRA_iden with otherwise equal settings")
    return pairs


def mean_ranks(group: Group) -> dict[str, tuple[list[float], int]]:
    """Average ranks over seeds.

    Args:
        group: Runs of one method.

    Returns:
        By module: the rank of every layer, in their order, and the largest possible one.
    """
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    largest: dict[str, int] = {}
    for run in group.runs:
        for row in run.ranks:
            found[row["module"]][row["layer"]].append(float(row["rank"]))
            largest[row["module"]] = int(row["max_rank"])
    return {
        module: ([mean(values) for values in layers.values()], largest[module])
        for module, layers in found.items()
    }


def mean_curve(runs: Sequence[Sequence[tuple[int, float]]]) -> tuple[list[int], list[float]]:
    """Average curves at the steps that all of them have; give steps and means."""
    by_step = [dict(points) for points in runs]
    steps = sorted(set.intersection(*(set(points) for points in by_step)))
    return steps, [mean([points[step] for points in by_step]) for step in steps]


def mean_spectra(run: Run) -> dict[str, np.ndarray]:
    """Average singular values, over the largest one, over the layers of each module."""
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
        module: np.mean([v[: min(map(len, some))] for v in some], axis=0)
        for module, some in layers.items()
    }


def _best(groups: Sequence[Group], headline: Column) -> Group:
    """Give the group with the best score, or the first where none has one."""
    return max(groups, key=lambda group: mean(scores_of(group, headline) or [float("-inf")]))


def _modes(group: Group) -> str:
    sides = [group.fields.get(f"adapter.{side}", "?") for side in SIDES]
    name = " x ".join(str(side).replace(" ", "") for side in sides)
    patterns = {
        k.removeprefix("adapter.modes_pattern."): v
        for k, v in group.fields.items()
        if k.startswith("adapter.modes_pattern.") and k.endswith(SIDES)
    }
    return name + "".join(f" {key}={modes}" for key, modes in patterns.items())
