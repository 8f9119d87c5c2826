"""Tell a user's mistake in one line."""

import sys
import traceback
from typing import NoReturn

from jsonargparse import ArgumentError
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser

OWN_PACKAGES = ("tera_pl", "datamodules")

# Lines of a jsonargparse message that repeat what the others say, for every type of a union.
_NOISE = (
    "Does not validate against any of the Union",
    "Subtypes:",
    "Errors:",
    "Given value",
    "- Expected a <class 'NoneType'>",
    "- Expected a path but",
    "- Does not validate against any of the Union",
)


class Parser(LightningArgumentParser):
    """A parser whose errors are one line, without the usage of a hundred options."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Write the message in one line and exit with 2."""
        if not self.exit_on_error:
            raise ArgumentError(None, message) from ex
        lines = [line.strip() for line in message.splitlines()]
        told = [line.removeprefix("- ") for line in lines if line and not line.startswith(_NOISE)]
        sys.stderr.write(f"error: {' '.join(told)} (see --help)\n")
        self.exit(2)


def is_mistake(error: Exception) -> bool:
    """Tell whether an error is a user's mistake rather than a defect.

    Args:
        error: What was raised.

    Returns:
        True if this project or Lightning raised it on purpose. A ValueError that comes from
        anywhere else is a defect, and deserves its traceback.
    """
    if isinstance(error, MisconfigurationException):
        return True
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    package = frames[-1].f_globals["__name__"].partition(".")[0]
    return isinstance(error, ValueError) and package in OWN_PACKAGES
