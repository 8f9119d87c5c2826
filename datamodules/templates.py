"""Text from columns: the name of one, or a template with names in braces."""

import re
from collections.abc import Mapping
from typing import Any

from datamodules.errors import UserError
from datamodules.records import get_text

_PART = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


def fields_of(template: str, key: str) -> list[str]:
    """List the columns that a template needs.

    Args:
        template: The name of a column, or text with names of columns in braces; `{{` and `}}` are
            braces of the text.
        key: Its YAML key, for the message.

    Returns:
        Names of columns.

    Raises:
        UserError: If a brace has no counterpart, or nothing is between two.
    """
    if not re.search("[{}]", template):
        return [template]
    fields = []
    for part in _PART.finditer(template):
        if part[0] in {"{", "}"} or part[1] == "":
            raise UserError(
                f"{key} is {template!r}: expected the name of a column, or text with names of "
                "columns in braces; {{ and }} stand for braces themselves"
            )
        if part[1] is not None:
            fields.append(part[1])
    return fields


def fill(template: str, row: Mapping[str, Any], place: str) -> str:
    """Make the text of a row.

    Args:
        template: As in `fields_of`, which has checked it.
        row: Values by column.
        place: File and record, for messages.

    Returns:
        The text of a single column as it stands; that of a template without white space at its
        ends, where an empty column leaves some.

    Raises:
        UserError: If a column is missing, neither text nor an integer, or the text is empty.
    """
    if not re.search("[{}]", template):
        return text_of(row, template, place)

    def value(part: re.Match[str]) -> str:
        if part[1] is None:
            return part[0][0]
        return text_of(row, part[1], place, empty=True)

    text = _PART.sub(value, template).strip()
    if not text:
        raise UserError(f"{place}: the template {template!r} gives no text")
    return text


def text_of(row: Mapping[str, Any], column: str, place: str, *, empty: bool = False) -> str:
    """Take the text of a column.

    Args:
        row: Values by column.
        column: Its name.
        place: File and record, for messages.
        empty: Whether the text may be empty.

    Returns:
        The text; an integer in decimal.

    Raises:
        UserError: If there is no such column, or its value is neither text nor an integer.
    """
    value = row.get(column)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return get_text(row, column, place, empty=empty)
