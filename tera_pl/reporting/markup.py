"""Escape text of settings and data for Markdown and HTML."""

import html
import re
from typing import Any

# Escaped by a backslash. An underscore between letters is not markup and is not escaped: most names
# of settings have one.
_MARKS = re.compile(r"[\\`*\[\]<>|&~$]|(?<![^\W_])_|_(?![^\W_])")
# Starts a heading, a list, a rule or the underline of a heading, but not a signed number.
_START = re.compile(r"^([#=]|[+-](?![\w.])|\d+(?=[.)](\s|$)))")
_LINE_ENDS = re.compile(r"[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]+")


def markdown(value: Any) -> str:
    r"""Escape a value as one line of Markdown text, valid in the cell of a table too.

    Args:
        value: Any value; its `str` is shown, with spaces for line ends.

    Returns:
        Text without active markup.

    Example:
        >>> print(markdown("a|b <i>*c*</i> q_proj"))
        a\|b \<i\>\*c\*\</i\> q_proj
    """
    text = _MARKS.sub(lambda match: "\\" + match.group(), _line(value))
    start = _START.match(text)
    if start is None:
        return text
    # A digit cannot be escaped, but the character after it can.
    index = start.end() if text[0].isdigit() else 0
    return f"{text[:index]}\\{text[index:]}"


def code(value: Any) -> str:
    """Format a value with any backticks as a code span; not valid in the cell of a table.

    Args:
        value: Any value; its `str` is shown, with spaces for line ends.

    Returns:
        A code span in one line.

    Example:
        >>> code("a`b"), code("")
        ('``a`b``', '` `')
    """
    text = _line(value)
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    # Markdown strips one space at both ends.
    pad = " " if text[:1] in "` " or text[-1:] in "` " else ""
    return f"{fence}{pad}{text}{pad}{fence}" if text else "` `"


def code_block(text: str) -> str:
    """Format text as an indented code block."""
    return "\n".join(f"    {line}" for line in text.splitlines())


def html_text(value: Any) -> str:
    """Escape a value as one line of text of an HTML element in Markdown."""
    return html.escape(_line(value))


def _line(value: Any) -> str:
    return _LINE_ENDS.sub(" ", str(value)).strip()
