"""Private names of jsonargparse."""

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
