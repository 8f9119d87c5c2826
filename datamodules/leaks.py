"""Records that occur more than once: in training and test, or within one of them."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from datamodules.errors import MissingFileError
from datamodules.records import Record

NAMED = 5  # in a warning; results.json has them all

# Where the options of a question begin, in the files of LLM-Adapters.
_OPTIONS = re.compile(r"(Answer Choices|The options are):.*", re.DOTALL)
_WORD = re.compile(r"\w+")


def find_leaks(train: Sequence[Record], test: Sequence[Record]) -> dict[int, str]:
    """Find training questions that are asked in a test set.

    Questions are compared by their words and numbers alone: without case, punctuation, spacing and
    the options to choose from in mathematics. Those with candidates are equal if all of these are.

    Args:
        train: Training records; their prompts are instructions.
        test: Test records, of any number of sets.

    Returns:
        The id of the test record for each index of a training record that leaks.
    """
    asked: dict[str, str] = {}
    for record in test:
        asked.setdefault(_normalize(_question(record)), record["id"])
    if not asked:
        return {}
    found = ((index, asked.get(_normalize(_question(one)))) for index, one in enumerate(train))
    return {index: name for index, name in found if name is not None}


def count_repeats(records: Sequence[Record]) -> dict[str, Any]:
    """Count records whose question, character by character, an earlier one has.

    Args:
        records: The records of one file or set.

    Returns:
        `same_response` and `other_response`, how many such records have the response of the first
        with their question, and how many another.
    """
    first: dict[str, Record] = {}
    counts = {"same_response": 0, "other_response": 0}
    for record in records:
        earlier = first.setdefault(_question(record), record)
        if earlier is not record:
            # A continuation is the same for all candidates where their prompts differ.
            same = all(earlier[name] == record[name] for name in ("prompt", "response"))
            counts["same_response" if same else "other_response"] += 1
    return counts


def compare_with_test(
    train: Sequence[Record], test_records: Callable[[], Sequence[Record]], action: str
) -> dict[str, Any]:
    """Find, report and describe training questions that occur in a test set.

    Args:
        train: Training records, validation included.
        test_records: Reads the test records.
        action: `report` or `drop`, for the message.

    Returns:
        `action`; `found`, the id of a test record for each id of a training record that leaks; and,
        where there is no test set here, `not_compared` with the reason.
    """
    try:
        test = test_records()
    except MissingFileError as error:
        rank_zero_warn(f"training records are not compared with test records: {error}")
        return {"action": action, "found": {}, "not_compared": str(error)}
    leaks = find_leaks(train, test)
    found = {train[index]["id"]: name for index, name in leaks.items()}
    if found:
        some = ", ".join(f"{a} is {b}" for a, b in list(found.items())[:NAMED])
        what = "dropped" if action == "drop" else "kept (data.leaks: drop drops them)"
        rank_zero_warn(
            f"{len(found)} of {len(train)} training questions occur in a test set, {what}: {some}"
            f"{', ...' if len(found) > NAMED else ''}"
        )
    return {"action": action, "found": found}


def report_repeats(name: str, counts: Mapping[str, int]) -> None:
    """Log in one line what `count_repeats` has found, if it has."""
    if any(counts.values()):
        rank_zero_info(
            f"{name}: records whose prompt occurs before: {counts['same_response']:,} with the "
            f"same response, {counts['other_response']:,} with another; all are kept"
        )


def _question(record: Record) -> str:
    """Give the text that makes a question: its prompt, or its candidates where it has some."""
    if "candidates" not in record:
        return record["prompt"]
    return "\n".join(one["prompt"] + one["continuation"] for one in record["candidates"])


def _normalize(question: str) -> str:
    return " ".join(_WORD.findall(_OPTIONS.sub("", question).casefold()))
