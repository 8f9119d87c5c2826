"""Arguments of the commands: one line for what is invalid."""

import argparse
import math
from typing import Any, NoReturn

from huggingface_hub.serialization._base import parse_size_to_int

from tera_pl.errors import UserError


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage; options cannot be abbreviated.

    Args:
        command: Name of the command.
        doc: Its docstring, of which the first paragraph is shown.
        **settings: Settings of `argparse.ArgumentParser`.
    """

    def __init__(self, command: str, doc: str | None, **settings: Any) -> None:
        description = (doc or "").partition("\n\n")[0]
        prog = f"python -m tera_pl {command}"
        super().__init__(prog=prog, description=description, allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        """Raise a `UserError`, as for every other input."""
        raise UserError(f"{message} (see {self.prog} --help)")


def positive(text: str) -> float:
    """Read a number above zero, for `type` of an argument.

    Args:
        text: The argument.

    Returns:
        The number.

    Raises:
        ArgumentTypeError: If it is none, infinite, or not above zero.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number above 0")
    return number


def file_size(text: str) -> str:
    """Check the size of a file, for `type` of an argument.

    Args:
        text: The argument, for example `5GB`.

    Returns:
        The argument.

    Raises:
        ArgumentTypeError: If it is no size, or not above zero.
    """
    try:
        valid = parse_size_to_int(text) > 0
    except (ValueError, IndexError):
        valid = False
    if not valid:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a size, as 500MB or 5GB")
    return text
