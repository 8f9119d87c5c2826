"""Cloze forms: the options of a question are texts that continue a prompt.

Prompts, options and their order are those of lm-evaluation-harness 0.4 (its tasks `arc_easy`,
`arc_challenge`, `openbookqa`, `piqa`, `winogrande`, `boolq`), made from the records of
LLM-Adapters. Those of BoolQ lack the passage, which the harness puts before the question.
"""

import re

from datamodules.errors import UserError
from datamodules.records import Candidate, Record

_QUESTION = "Question: {}\nAnswer:"
PROMPTS = {
    "boolq": _QUESTION,
    "piqa": _QUESTION,
    "ARC-Easy": _QUESTION,
    "ARC-Challenge": _QUESTION,
    "openbookqa": "{}",
    # The prompt ends with an option in the place of the blank; what follows is scored.
    "winogrande": "{}",
}
_YES_OR_NO = {"false": "no", "true": "yes"}
_BOOLQ = re.compile(r".*?, question: (.*?)\s*", re.DOTALL)


def as_cloze(record: Record, place: str) -> Record:
    """Make the cloze form of a record.

    Args:
        record: In the published form; its task is one of `PROMPTS`.
        place: File and record, for messages.

    Returns:
        The record with the same id and task, whose response is the correct candidate.

    Raises:
        UserError: If question and options cannot be found in the prompt.
    """
    task, instruction, answer = record["task"], record["prompt"], str(record["reference"])
    if task == "boolq":
        options = dict(_YES_OR_NO)
        match = _BOOLQ.fullmatch(_parts(instruction, place)[0])
        if match is None:
            raise _unknown(place, "', question: ' before the question")
        question = match[1]
    else:
        question, options = _split(instruction, place)
    if answer not in options:
        raise UserError(f"{place}: answer {answer!r} is none of its options, {', '.join(options)}")
    if task == "winogrande":
        candidates = _fill_blank(question, list(options.values()), place)
    else:
        prompt = PROMPTS[task].format(question)
        candidates = [
            Candidate(answer=option, prompt=prompt, continuation=f" {option}")
            for option in options.values()
        ]
    correct = candidates[list(options).index(answer)]
    return {
        **record,
        "prompt": correct["prompt"],
        "response": correct["continuation"],
        "reference": correct["answer"],
        "choices": None,
        "candidates": candidates,
    }


def _parts(instruction: str, place: str) -> tuple[str, list[str]]:
    """Split an instruction into what comes before `Answer format: `, and the labels after it."""
    body, _, labels = instruction.rpartition("Answer format: ")
    if not body:
        raise _unknown(place, "'Answer format: ...' at its end")
    return body, labels.strip().split("/")


def _split(instruction: str, place: str) -> tuple[str, dict[str, str]]:
    """Take the question and the options by label out of an instruction, character by character."""
    body, labels = _parts(instruction, place)
    _, colon, text = body.partition(": ")
    # `answer1` in the format is `Answer1: ` before its option.
    marks = [f"{label.capitalize()}: " for label in labels]
    if not colon or any(text.count(mark) != 1 for mark in marks):
        raise _unknown(place, f"{', '.join(marks)}each once, after a question")
    pieces = re.split("|".join(map(re.escape, marks)), text)
    if re.findall("|".join(map(re.escape, marks)), text) != marks:
        raise _unknown(place, f"{', '.join(marks)}in this order")
    # Spaces before a separator are a part of the text, as they are in the harness.
    question, *options = (re.sub(r"(\n\n| )\Z", "", piece) for piece in pieces)
    if not all(map(str.strip, (question, *options))):
        raise _unknown(place, "a question and options that are not empty")
    return question, dict(zip(labels, options, strict=True))


def _fill_blank(sentence: str, options: list[str], place: str) -> list[Candidate]:
    before, blank, after = sentence.partition("_")
    if not blank or "_" in after or not after.strip():
        raise _unknown(place, "one blank '_' in the sentence, and text after it")
    return [
        Candidate(answer=option, prompt=before + option, continuation=f" {after.strip()}")
        for option in options
    ]


def _unknown(place: str, expected: str) -> UserError:
    return UserError(f"{place}: field 'instruction' has no cloze form: expected {expected}")
