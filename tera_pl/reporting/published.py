"""Scores that papers have published, to be shown beside those of runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import PurePath
from typing import Any

import yaml

from tera_pl.reporting.groups import Group


@dataclass(frozen=True)
class Published:
    """What a source states of one method.

    Args:
        benchmark: Class name of the benchmark.
        backbone: Last part of a path that is its base model.
        method: The method's name.
        targets: Modules that are adapted; empty for prompt methods.
        r: Rank, or null where the source names none.
        source: Where the scores are printed.
        derived: How they follow from what is printed, or null.
        scores: In percent, by name.
    """

    benchmark: str
    backbone: str
    method: str
    targets: frozenset[str]
    r: int | None
    source: str
    derived: str | None
    scores: Mapping[str, float]

    @property
    def label(self) -> str:
        """Method, rank and modules."""
        rank = [] if self.r is None else [f"r={self.r}"]
        # The same names as in the papers: q, v, up.
        modules = [name.removesuffix("_proj") for name in sorted(self.targets)]
        details = "; ".join([*rank, *([", ".join(modules)] if modules else [])])
        return f"{self.method} ({details})" if details else self.method

    def describes(self, group: Group) -> bool:
        """Tell whether the runs of a group have this method, rank and these modules."""
        rank = group.fields.get("adapter.r")
        targets = group.fields.get("adapter.target_modules", [])
        return (
            self.method == group.method
            and self.r in (None, rank)
            and (not self.targets or (isinstance(targets, list) and self.targets == set(targets)))
        )


def published_for(benchmark: str, backbone: str) -> list[Published]:
    """Give the published scores of a benchmark with a base model.

    Args:
        benchmark: Class name of the benchmark.
        backbone: Folder or Hub id of the base model; its last part decides.

    Returns:
        One entry per method and setting; empty for a base model of no paper.
    """
    name = PurePath(backbone).name
    return [row for row in _read() if (row.benchmark, row.backbone) == (benchmark, name)]


@cache
def _read() -> tuple[Published, ...]:
    text = resources.files("tera_pl.reporting").joinpath("published.yaml").read_text("utf-8")
    content = yaml.safe_load(text)
    return tuple(_entry(row, content) for row in content["rows"])


def _entry(row: Mapping[str, Any], content: Mapping[str, Any]) -> Published:
    scores = row["scores"]
    if isinstance(scores, list):
        scores = dict(zip(content["scores"][row["benchmark"]], scores, strict=True))
    return Published(
        benchmark=row["benchmark"],
        backbone=content["backbones"][row["backbone"]],
        method=row["method"],
        targets=frozenset(content["targets"].get(row.get("targets"), [])),
        r=row.get("r"),
        source=content["sources"][row["source"]],
        derived=row.get("derived"),
        scores=scores,
    )
