"""Tell a user's mistake in one line."""

import sys
from typing import NoReturn

from jsonargparse import ArgumentError
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser

from tera_pl.errors import is_user_error

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


def is_mistake(error: BaseException) -> bool:
    """Check whether an error was raised on purpose for invalid input, here or by Lightning.

    Args:
        error: What was raised.

    Returns:
        False for everything else, which is a defect and deserves its traceback.
    """
    return isinstance(error, MisconfigurationException) or is_user_error(error)
