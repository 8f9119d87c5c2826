"""Metrics: extract answers from generated text and score them."""

import importlib
from typing import TYPE_CHECKING, Any

from tera_pl.metrics.accuracy import AnswerAccuracy
from tera_pl.metrics.choice import ChoiceAccuracy, extract_choice
from tera_pl.metrics.math import MathAccuracy
from tera_pl.metrics.number import NumericAccuracy, extract_number
from tera_pl.metrics.option_letter import OptionLetterAccuracy, extract_option_letter

if TYPE_CHECKING:
    from tera_pl.metrics.dialogue import DialogueScores, clean_dialogue

__all__ = [
    "AnswerAccuracy",
    "ChoiceAccuracy",
    "DialogueScores",
    "MathAccuracy",
    "NumericAccuracy",
    "OptionLetterAccuracy",
    "clean_dialogue",
    "extract_choice",
    "extract_number",
    "extract_option_letter",
]


def __getattr__(name: str) -> Any:
    # nltk, rouge-score and bert-score take a tenth of the start-up time; one dataset needs them.
    if name in {"DialogueScores", "clean_dialogue"}:
        return getattr(importlib.import_module("tera_pl.metrics.dialogue"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
