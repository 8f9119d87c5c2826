"""Argument parsing that the commands share: an invalid argument is an error of one line."""

import argparse
import math
import re
from typing import Any, NoReturn

from tera_pl.commands import COMMANDS
from tera_pl.errors import UserError


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage; options cannot be abbreviated.

    Args:
        command: Name of the command.
        description: One line for the help text; by default that of `COMMANDS`.
        **settings: Settings of `argparse.ArgumentParser`.
    """

    def __init__(self, command: str, description: str | None = None, **settings: Any) -> None:
        super().__init__(
            prog=f"python -m tera_pl {command}",
            description=description or COMMANDS[command],
            allow_abbrev=False,
            **settings,
        )

    def error(self, message: str) -> NoReturn:
        """Raise a `UserError`, as for every other input."""
        raise UserError(f"{message} (see {self.prog} --help)")


def positive(text: str) -> float:
    """Read a positive number, for `type` of an argument.

    Args:
        text: The argument.

    Returns:
        The number.

    Raises:
        ArgumentTypeError: If the text is not a finite number above zero.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number above 0")
    return number


def file_size(text: str) -> str:
    """Check a file size, for `type` of an argument.

    Args:
        text: The argument, for example `5GB`; units are those of `save_pretrained`.

    Returns:
        The argument.

    Raises:
        ArgumentTypeError: If the text is not a size of at least one byte.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*[KMGT]B", text.strip(), re.IGNORECASE)
    if match is None or float(match[1]) < 0.001:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a size, as 500MB or 5GB")
    return text
