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
def _compose(path: Path) -> Any:
    texts = expand([f"--config={path}"])[1::2]
    return reduce(
        merge,
        (yaml.safe_load(text if "\n" in text else Path(text).read_text("utf-8")) for text in texts),
    )


def compose(path: Path) -> dict[str, Any]:
    """Read a configuration file and all that it starts from."""
    composed: dict[str, Any] = copy.deepcopy(_compose(path))
    return composed
