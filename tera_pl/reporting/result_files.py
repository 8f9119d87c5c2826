"""Read and validate results.json."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tera_pl.errors import UserError

# Sections of results.json, and the settings of a tested run as examples of their types.
_STAGES = ("fit", "validate", "test")
_SETTINGS = {
    "data": {"class": ""},
    "backbone": {"path": ""},
    "adapter": None,
    "optimizer": {},
    "schedule": {},
    "protocol": {},
}
_KINDS = {dict: "a mapping", str: "a text", type(None): "a mapping or null"}


def read_results(path: Path) -> dict[str, Any]:
    """Read a run's results.json.

    Args:
        path: The file.

    Returns:
        Its content; empty if the file is missing.

    Raises:
        UserError: If the file is damaged or does not hold the results of a run.
    """
    if not path.exists():
        return {}
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, str(error)) from None
    expected: dict[str, Any] = {
        name: {} for name in (*_STAGES, "settings", "environment") if name in results
    }
    if "test" in expected:
        # Tested runs are compared and drawn, which needs all of these settings.
        expected |= {"test": {"scores": {}}, "settings": _SETTINGS}
    check_form(results, expected, path, "it")
    for stage in _STAGES:
        check_form(results.get(stage, {}).get("scores", {}), {}, path, f"{stage}.scores")
        for name, score in results.get(stage, {}).get("scores", {}).items():
            if type(score) not in {int, float}:
                raise damaged(path, f"{stage}.scores.{name} is {score!r}: expected a number")
        for name in ("resources", "missing_scores"):
            check_form(results.get(stage, {}).get(name, {}), {}, path, f"{stage}.{name}")
    if results.get("settings", {}).get("adapter") is not None:
        check_form(results["settings"]["adapter"], {"peft_type": ""}, path, "settings.adapter")
    check_form(results.get("environment", {}).get("versions", {}), {}, path, "versions")
    return results


def check_form(found: Any, expected: Any, path: Path, where: str) -> None:
    """Check that nested values have the expected keys and types.

    Args:
        found: Values from a file.
        expected: Required keys with examples of their types: a mapping, a text, or None for a
            mapping or null. Other keys are not checked.
        path: The file.
        where: Location of the values in it.

    Raises:
        UserError: If a key is missing or a value has another type.
    """
    types: Any = str if isinstance(expected, str) else Mapping
    if not isinstance(found, types) and not (expected is None and found is None):
        raise damaged(path, f"{where} is {str(found)[:40]!r}: expected {_KINDS[type(expected)]}")
    for key, value in (expected or {}).items() if isinstance(expected, dict) else ():
        if key not in found:
            raise damaged(path, f"{where} lacks {key!r}")
        check_form(found[key], value, path, key if where == "it" else f"{where}.{key}")


def damaged(path: Path, reason: str) -> UserError:
    """Return the error for a damaged file of a run."""
    return UserError(f"{path} is damaged: {reason}: restore it, or move its folder away")
