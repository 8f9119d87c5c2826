"""Accuracy of word problems: numbers, and letters where a record has options."""

from typing import Any

from tera_pl.metrics.accuracy import AnswerAccuracy, Record
from tera_pl.metrics.number import NumericAccuracy
from tera_pl.metrics.option_letter import OptionLetterAccuracy


class MathAccuracy(AnswerAccuracy):
    """Numeric accuracy of records without `choices`, option-letter accuracy of those with them."""

    @staticmethod
    def extract(output: str, record: Record, strict: bool) -> Any:
        """Extract an option letter or a number."""
        return _metric(record).extract(output, record, strict)

    @classmethod
    def is_right(cls, found: Any, record: Record) -> bool:
        """Check a letter or a number."""
        return _metric(record).is_right(found, record)


def _metric(record: Record) -> type[AnswerAccuracy]:
    return OptionLetterAccuracy if record["choices"] else NumericAccuracy
