"""Checks of single values in a study file; each gives the value or raises an error of one line."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tera_pl.errors import UserError


def text(value: Any, path: Path, name: str) -> str:
    """Accept a text that is not empty.

    Args:
        value: The value.
        path: The study file, for the error.
        name: Its dotted key, for the error.

    Returns:
        The value.

    Raises:
        UserError: If it is another value.
    """
    if not isinstance(value, str) or not value:
        raise UserError(f"{path}: {name} is {value!r}: expected a text")
    return value


def number(value: Any, path: Path, name: str) -> float:
    """Accept a finite number.

    Args:
        value: The value.
        path: The study file, for the error.
        name: Its dotted key, for the error.

    Returns:
        The value.

    Raises:
        UserError: If it is another value.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{path}: {name} is {value!r}: expected a number")
    return value


def flag(value: Any, path: Path, name: str) -> bool:
    """Accept a boolean.

    Args:
        value: The value.
        path: The study file, for the error.
        name: Its dotted key, for the error.

    Returns:
        The value.

    Raises:
        UserError: If it is another value.
    """
    if not isinstance(value, bool):
        raise UserError(f"{path}: {name} is {value!r}: expected true or false")
    return value


def integer_from(least: int) -> Callable[[Any, Path, str], int]:
    """Make a check for an integer.

    Args:
        least: The smallest that is accepted.

    Returns:
        A function of the value, the study file and the dotted key, that returns the value.
    """

    def check(value: Any, path: Path, name: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UserError(f"{path}: {name} is {value!r}: expected an integer from {least}")
        return value

    return check


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
