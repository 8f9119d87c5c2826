"""A shipped configuration with those it starts from, as YAML has them: nothing is parsed."""

import copy
from functools import cache, reduce
from pathlib import Path
from typing import Any

import yaml

from tera_pl.config.fragments import expand


def merge(below: Any, above: Any) -> Any:
    """Lay nested settings over others; another class takes none of the settings below it."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    if "class_path" in above and above["class_path"] != below.get("class_path"):
        return above
    return below | {key: merge(below.get(key), value) for key, value in above.items()}


@cache
def fragments(path: Path) -> list[dict[str, Any]]:
    """List what a file starts from, and then its own settings; not to be changed."""
    texts = expand([f"--config={path}"])[1::2]
    return [yaml.safe_load(t if "\n" in t else Path(t).read_text("utf-8")) for t in texts]


@cache
def _merged(path: Path) -> dict[str, Any]:
    merged: dict[str, Any] = reduce(merge, fragments(path))
    return merged


def compose(path: Path) -> dict[str, Any]:
    """Give the settings of a configuration file and of all that it starts from."""
    return copy.deepcopy(_merged(path))
