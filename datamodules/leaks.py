"""Training questions that occur in a test set."""

import re
from collections.abc import Sequence

from datamodules.records import Record

# Where the options of a question begin, as the files of LLM-Adapters have it.
_OPTIONS = re.compile(r"(Answer Choices|The options are):.*", re.DOTALL)


def find_leaks(train: Sequence[Record], test: Sequence[Record]) -> dict[int, str]:
    """Find training questions that are asked in a test set.

    Questions are compared by their words and numbers alone: without case, punctuation, spacing and
    the options to choose from.

    Args:
        train: Training records; their prompts are instructions.
        test: Test records, of any number of sets.

    Returns:
        The id of the test record for each index of a training record that leaks.
    """
    asked: dict[str, str] = {}
    for record in test:
        asked.setdefault(_normalise(record["prompt"]), record["id"])
    found = ((index, asked.get(_normalise(record["prompt"]))) for index, record in enumerate(train))
    return {index: name for index, name in found if name is not None}


def _normalise(question: str) -> str:
    return " ".join(re.findall(r"\w+", _OPTIONS.sub("", question).casefold()))
