"""Checks of single values in a study file; each gives the value or raises an error of one line."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tera_pl.errors import UserError


def check_of(valid: Callable[[Any], bool], expected: str) -> Callable[[Any, Path, str], Any]:
    """Make a check for a value.

    Args:
        valid: Whether a value is valid.
        expected: What is expected, for the error.

    Returns:
        A function of the value, the study file and the dotted key, that returns the value.
    """

    def check(value: Any, path: Path, name: str) -> Any:
        if not valid(value):
            raise UserError(f"{path}: {name} is {value!r}: expected {expected}")
        return value

    return check


def _is_a(value: Any, kind: Any) -> bool:
    """Whether a value is a number of a kind: Python counts True and False as integers."""
    return isinstance(value, kind) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number; an integer that no float can hold is not."""
    return _is_a(value, int | float) and abs(value) <= sys.float_info.max


text = check_of(lambda value: isinstance(value, str) and value != "", "a text")
number = check_of(is_number, "a number")
flag = check_of(lambda value: isinstance(value, bool), "true or false")


def integer_from(least: int) -> Callable[[Any, Path, str], int]:
    """Make a check for an integer.

    Args:
        least: The smallest that is accepted.

    Returns:
        As `check_of`.
    """
    return check_of(lambda value: _is_a(value, int) and value >= least, f"an integer from {least}")


def list_of(valid: Callable[[Any], bool], expected: str) -> Callable[[Any, Path, str], list]:
    """Make a check for a non-empty list of valid and different values.

    Args:
        valid: Whether a value is valid.
        expected: What is expected, for the error.

    Returns:
        A function of the value, the study file and the dotted key, that returns the value.
    """

    def check(value: Any, path: Path, name: str) -> list[Any]:
        if not isinstance(value, list) or not value:
            raise UserError(f"{path}: {name} is {value!r}: expected a list of {expected}")
        for index, item in enumerate(value):
            if isinstance(item, bool) or not valid(item):
                raise UserError(f"{path}: {name}[{index}] is {item!r}: expected {expected}")
            if item in value[:index]:
                raise UserError(f"{path}: {name} has {item!r} twice")
        return value

    return check
