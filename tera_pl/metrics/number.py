"""Accuracy of the number at the end of a solution: `... The answer is 42.`."""

import math
import re
from collections.abc import Iterator

from tera_pl.errors import UserError
from tera_pl.metrics.accuracy import AnswerAccuracy, Record

TOLERANCE = 1e-3

# A separate run of digits, points and commas: not in a word, a date or a time, and with a minus
# only if it is a sign, not a subtraction. Possessive (`*+`): never the 12 of `12.5km`.
_RUN = re.compile(
    r"(?<![\w.,/])(?<!\d:)(?:(?<!\d )-)?(?:\d|\.\d)[\d.,]*+(?:/(?=\d)[\d.,]*+)?(?!\w|/\d|:\d)"
)
# Thousands are separated by commas in threes, or not at all.
_NUMBER = re.compile(r"-?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)")
_STATED = re.compile(
    r"\banswer\b[^.\d\n]*?(?:\b(?:is|(?:should|must|would) be)\b|:|=)|####", re.IGNORECASE
)
# An expression before its result: `4 * 5 =`.
_SUM = re.compile(r"(?:\.(?=\d)|[-+*/x\u00d7\u00f7^(),%\d \t=])*=")


def extract_number(text: str, strict: bool = False) -> float | None:
    """Extract the last number of a text.

    Args:
        text: A generated answer.
        strict: False deletes all commas and takes the last number anywhere, as the literature's
            scorer does (LLM-Adapters, `evaluate.py`), even out of a word or a list. True takes
            the first number after the last `answer is` or `####`, of an expression such as
            `4 * 5 = 20` the result, or else the last number. Only separate numbers count; fractions
            such as `3/4` are evaluated.

    Returns:
        The number, or None without one.

    Example:
        >>> extract_number("The answer is 1,234.50 in June 2020")
        2020.0
        >>> extract_number("The answer is 1,234.50 in June 2020", strict=True)
        1234.5
    """
    if not strict:
        found = re.findall(r"-?\d+\.?\d*", text.replace(",", ""))
        return float(found[-1]) if found else None
    # A currency sign before a number is removed, a minus before that sign is kept.
    text = re.sub(r"(-?)[$€£]", r" \1", text.replace("\N{MINUS SIGN}", "-"))
    numbers = list(_numbers(text))
    if stated := [match.end() for match in _STATED.finditer(text)]:
        start = stated[-1]
        if total := _SUM.match(text, start):
            start = total.end()
        after = [number for place, number in numbers if place >= start]
        if after:
            return after[0]
    return numbers[-1][1] if numbers else None


def _numbers(text: str) -> Iterator[tuple[int, float]]:
    """Yield the start and value of every separate number."""
    for match in _RUN.finditer(text):
        parts = [part.rstrip(".,") for part in match.group().split("/")]
        if not all(_NUMBER.fullmatch(part) for part in parts):
            continue
        over, *under = [float(part.replace(",", "")) for part in parts]
        if under != [0]:
            yield match.start(), over / (under[0] if under else 1)


class NumericAccuracy(AnswerAccuracy):
    """Fraction of answers that end in the correct number, overall and by task.

    A number within 0.001 of the reference is correct (LLM-Adapters). A record needs `reference` and
    `task`.
    """

    @staticmethod
    def extract(output: str, record: Record, strict: bool) -> float | None:
        """Extract the last number of an answer."""
        return extract_number(output, strict)

    @classmethod
    def is_right(cls, found: float, record: Record) -> bool:
        """Compare a number with the reference.

        Args:
            found: The extracted number.
            record: Its record.

        Returns:
            Whether they are equal up to the tolerance.

        Raises:
            UserError: If the reference is not a finite number.
        """
        try:
            reference = float(str(record["reference"]).replace(",", ""))
            if not math.isfinite(reference):
                raise UserError
        except ValueError:
            raise UserError(
                f"{record.get('id', 'a record')}: reference {record['reference']!r}: expected a "
                "number, which NumericAccuracy compares with"
            ) from None
        return abs(found - reference) <= TOLERANCE
