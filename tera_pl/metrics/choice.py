"""Accuracy of labels in sentences: `the correct answer is answer2`."""

import re
from collections.abc import Sequence

from tera_pl.errors import UserError
from tera_pl.metrics.accuracy import AnswerAccuracy, Record


def extract_choice(text: str, choices: Sequence[str], strict: bool = False) -> str | None:
    """Find the label that a text chooses.

    Args:
        text: A generated answer.
        choices: The labels.
        strict: False takes the first label anywhere, even inside another word, as the literature's
            scorer does (LLM-Adapters, `commonsense_evaluate.py`). True takes a label that is a
            complete word after `the correct answer is`, and None if several sentences disagree.

    Returns:
        The label, or None if nothing is found.

    Example:
        >>> extract_choice("that is untrue", ["true", "false"])
        'true'
        >>> extract_choice("that is untrue", ["true", "false"], strict=True) is None
        True
    """
    labels = "|".join(re.escape(choice) for choice in choices)
    if not strict:
        match = re.search(labels, text)
        return match.group() if match else None
    found = set(re.findall(rf"\bthe correct answer is:?\s+({labels})(?!\w)", text))
    return found.pop() if len(found) == 1 else None


class ChoiceAccuracy(AnswerAccuracy):
    """Fraction of answers with the correct label, overall and by task.

    A record needs `choices`, `reference` and `task`.
    """

    @staticmethod
    def extract(output: str, record: Record, strict: bool) -> str | None:
        """Extract the chosen label.

        Args:
            output: A generated answer.
            record: Its record.
            strict: Which rule of `extract_choice`.

        Returns:
            The label, or None.

        Raises:
            UserError: If the record has no labels.
        """
        if record["choices"] is None:
            raise UserError(
                f"{record.get('id', 'a record')}: no labels to choose from, which ChoiceAccuracy "
                "looks for: expected another metric (ChoiceLikelihood for data in cloze form)"
            )
        return extract_choice(output, record["choices"], strict)
