"""Text from settings and data as literal text in Markdown and HTML."""

import html
import re
from typing import Any

# Backslashes before these are Markdown's own way to write them. An underscore between letters is
# no markup, and stays as it is: most names of settings have one.
_MARKS = re.compile(r"[\\`*\[\]<>|&~$]|(?<![^\W_])_|_(?![^\W_])")
# What would begin a heading, a list, a rule or the underline of a heading, and is no number.
_START = re.compile(r"^([#=]|[+-](?![\w.])|\d+(?=[.)](\s|$)))")
_LINE_ENDS = re.compile(r"[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]+")


def markdown(value: Any) -> str:
    r"""Write a value as one line of text that Markdown shows as it is, in a table's cell too.

    Args:
        value: Anything; its `str` is shown, with spaces for line ends.

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
    # A digit cannot be escaped; what follows it can.
    place = start.end() if text[0].isdigit() else 0
    return f"{text[:place]}\\{text[place:]}"


def code(value: Any) -> str:
    """Write a value as a code span, whatever backticks it holds; not for a table's cell.

    Args:
        value: Anything; its `str` is shown, with spaces for line ends.

    Returns:
        A code span in one line.

    Example:
        >>> code("a`b"), code("")
        ('``a`b``', '` `')
    """
    text = _line(value)
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    # One space at both ends is taken off again.
    pad = " " if text[:1] in "` " or text[-1:] in "` " else ""
    return f"{fence}{pad}{text}{pad}{fence}" if text else "` `"


def code_block(text: str) -> str:
    """Write text as an indented block, which keeps lines and markup as they are."""
    return "\n".join(f"    {line}" for line in text.splitlines())


def html_text(value: Any) -> str:
    """Write a value as one line of text inside an HTML element that stands in Markdown."""
    return html.escape(_line(value))


def _line(value: Any) -> str:
    return _LINE_ENDS.sub(" ", str(value)).strip()
