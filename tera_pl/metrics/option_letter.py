"""Accuracy of the letter of an option: `... so the answer is (C).`."""

import re

from tera_pl.metrics.accuracy import AnswerAccuracy, Record
from tera_pl.metrics.number import TOLERANCE, extract_number

# A letter in brackets, before a bracket, or alone, but not beside a dash or an apostrophe.
_LETTER = r"(?:\(([A-E])\)|(?<![\w'\u2019(-])([A-E])(?:\)|(?![\w'\u2019-])))"
# Before a lower-case word it may be an article or a quantity: `A man`, `let C be`.
_SEPARATE = rf"(?:{_LETTER}(?! [a-z]))"
_IS = r"\s+(?:is|are|must be|should be)"
_MARKUP = r"[\s:*\"$]*(?:\\boxed\{)?(?:\\text\{)?"
_STATED = re.compile(
    rf"(?i:\banswers?\b(?:{_IS}\b)?|\b(?:option|choice){_IS}\b){_MARKUP}(?i:option\s*)?{_LETTER}"
    rf"|{_LETTER}{_IS}\s+(?:the\s+)?(?:correct|right|best|answer)\b"
)
_CONCLUDED = re.compile(rf"(?i:\b(?:so|thus|hence|therefore)\b)[^.\n]*?{_SEPARATE}")
_DENIED = re.compile(
    rf"\b(?:not|neither)\s+{_LETTER}(?:\s+nor\s+{_LETTER})?"
    rf"|{_LETTER}{_IS}\s+(?:wrong|incorrect|false|not)\b|{_LETTER}\s+(?:isn['\u2019]t|cannot|can['\u2019]t)\b"
)
_SEVERAL = re.compile(rf"{_LETTER}(?:,\s*{_LETTER})*,?\s*(?:\bor\b|\band\b|[/&])\s*{_LETTER}")
_ALONE = re.compile(rf"(?i:\b(?:option|choice)\s+){_LETTER}|{_SEPARATE}")
_OPTIONS = re.compile(r"(?:Answer Choices|The options are):(.*)", re.DOTALL)
_OPTION = re.compile(r"\(?\b([A-E])\)\s*(.*?)\s*(?=\(?\b[A-E]\)|$)", re.DOTALL)


def extract_option_letter(text: str, strict: bool = False) -> str | None:
    """Extract the letter of the option that a text chooses.

    Args:
        text: A generated answer.
        strict: False takes the first capital A to E anywhere, the D of `Divide` too, as the
            literature's scorer does (LLM-Adapters, `evaluate.py`); that is mostly noise. True
            takes the last letter after a statement (`the answer is (B)`, `B is correct`), or else
            the last one after a conclusion (`so C`), or else the only separate one. Negated letters
            (`not B`) and alternatives (`B or C`) do not count.

    Returns:
        The letter, or None if nothing is found.

    Example:
        >>> extract_option_letter("Divide by 3, so the answer is (B).")
        'D'
        >>> extract_option_letter("Divide by 3, so the answer is (B).", strict=True)
        'B'
    """
    if not strict:
        match = re.search("[A-E]", text)
        return match.group() if match else None
    for pattern in (_DENIED, _SEVERAL):
        text = pattern.sub(" ", text)
    for pattern in (_STATED, _CONCLUDED):
        if found := _letters(pattern, text):
            return found[-1]
    alone = set(_letters(_ALONE, text))
    return alone.pop() if len(alone) == 1 else None


def extract_option_value(text: str, prompt: str) -> str | None:
    """Find the option whose value a text ends in, for texts without a letter.

    Args:
        text: A generated answer.
        prompt: The question with its options in one of the formats of LLM-Adapters:
            `Answer Choices: (A) 1 (B) 2` or `The options are: A)1 B)2`.

    Returns:
        The letter of the only option with the number of the text, or else of the only option that
        occurs in its last sentence; None without a single one.
    """
    options = _OPTIONS.search(prompt)
    if options is None:
        return None
    values = _OPTION.findall(options.group(1))
    number = extract_number(text, strict=True)
    equal = [letter for letter, value in values if _has_number(value, number)]
    if equal:
        return equal[0] if len(equal) == 1 else None
    sentence = re.split(r"(?<=[.!?])\s|\n", text.strip())[-1].casefold()
    named = [
        letter
        for letter, value in values
        if re.search(rf"(?<![\w.]){re.escape(value.casefold().strip(' .'))}(?!\w|\.\d)", sentence)
        and value.strip(" .")
    ]
    return named[0] if len(named) == 1 else None


class OptionLetterAccuracy(AnswerAccuracy):
    """Fraction of answers with the correct option letter, overall and by task.

    The strict rules also accept the value of an option in an answer without a letter. A record
    needs `prompt` with the options, `reference` and `task`.
    """

    @staticmethod
    def extract(output: str, record: Record, strict: bool) -> str | None:
        """Extract the letter of the chosen option."""
        letter = extract_option_letter(output, strict)
        if letter is None and strict:
            return extract_option_value(output, record["prompt"])
        return letter


def _letters(pattern: re.Pattern[str], text: str) -> list[str]:
    return [next(filter(None, match.groups())) for match in pattern.finditer(text)]


def _has_number(value: str, number: float | None) -> bool:
    """Check whether a value is this number, with or without a unit."""
    if number is None or len(re.findall(r"\d+(?:[.,]\d+)*", value)) != 1:
        return False
    found = extract_number(value, strict=True)
    return found is not None and abs(found - number) <= TOLERANCE
