"""Published scores, shown beside those of runs."""

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
    """Published scores of one method.

    Args:
        dataset: Class name of the datamodule.
        backbone: Last component of the base model's path.
        method: Name of the method.
        targets: Adapted modules; empty for prompt methods.
        r: Rank, or None if the source states none.
        source: Paper and table.
        derived: How the scores follow from those that the source prints, or None.
        scores: In percent, by name.
    """

    dataset: str
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
        """Check whether the runs of a group have this method, rank and adapted modules."""
        rank = group.fields.get("adapter.r")
        targets = group.fields.get("adapter.target_modules", [])
        return (
            self.method == group.method
            and self.r in (None, rank)
            and (not self.targets or (isinstance(targets, list) and self.targets == set(targets)))
        )


def published_for(dataset: str, backbone: str) -> list[Published]:
    """Return the published scores of a dataset with a base model.

    Args:
        dataset: Class name of the datamodule.
        backbone: Folder or Hub id of the base model; its last component decides.

    Returns:
        One entry per method and setting; empty for a base model without any.
    """
    name = PurePath(backbone).name
    return [row for row in _read() if (row.dataset, row.backbone) == (dataset, name)]


@cache
def _read() -> tuple[Published, ...]:
    text = resources.files("tera_pl.reporting").joinpath("published.yaml").read_text("utf-8")
    content = yaml.safe_load(text)
    return tuple(_entry(row, content) for row in content["rows"])


def _entry(row: Mapping[str, Any], content: Mapping[str, Any]) -> Published:
    scores = row["scores"]
    if isinstance(scores, list):
        scores = dict(zip(content["scores"][row["dataset"]], scores, strict=True))
    return Published(
        dataset=row["dataset"],
        backbone=content["backbones"][row["backbone"]],
        method=row["method"],
        targets=frozenset(content["targets"].get(row.get("targets"), [])),
        r=row.get("r"),
        source=content["sources"][row["source"]],
        derived=row.get("derived"),
        scores=scores,
    )
