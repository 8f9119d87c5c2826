"""Private names of jsonargparse."""

from collections.abc import Callable
from typing import Any

from jsonargparse import ArgumentParser


def type_hints(parser: ArgumentParser) -> dict[str, Any]:
    """Read the type of every typed argument of a parser.

    Args:
        parser: The parser.

    Returns:
        Types by the key of the argument; arguments without a type are missing.
    """
    actions = (action for action in parser._actions if not action.dest.endswith(".help"))
    return {action.dest: action._typehint for action in actions if hasattr(action, "_typehint")}


def filter_listed_classes(parser: ArgumentParser, fits: Callable[[str], bool]) -> None:
    """Shorten the lists of known subclasses in the help of a parser.

    Args:
        parser: The parser.
        fits: Whether the class of an import path is listed.
    """
    for action in parser._actions:
        if hasattr(action, "extra_help"):
            action.extra_help = _Filtered(action.extra_help, fits)


class _Filtered:
    """The list of an argument's classes, which are found when the help is formatted."""

    def __init__(self, describe: Callable[[], str], fits: Callable[[str], bool]) -> None:
        self._describe = describe
        self._fits = fits

    def __call__(self) -> str:
        start, colon, paths = self._describe().partition(": ")
        fitting = [path for path in paths.split(", ") if path and self._fits(path)]
        return f"{start}{colon}{', '.join(fitting)}" if fitting else ""
