"""Metrics: extract answers from generated text and score them."""

from tera_pl.metrics.accuracy import AnswerAccuracy
from tera_pl.metrics.choice import ChoiceAccuracy, extract_choice
from tera_pl.metrics.choice_likelihood import ChoiceLikelihood
from tera_pl.metrics.dialogue import DialogueScores, clean_dialogue
from tera_pl.metrics.math import MathAccuracy
from tera_pl.metrics.number import NumericAccuracy, extract_number
from tera_pl.metrics.option_letter import OptionLetterAccuracy, extract_option_letter
from tera_pl.metrics.record_loss import RecordLoss, loss_per_token, loss_scores, perplexity

__all__ = [
    "AnswerAccuracy",
    "ChoiceAccuracy",
    "ChoiceLikelihood",
    "DialogueScores",
    "MathAccuracy",
    "NumericAccuracy",
    "OptionLetterAccuracy",
    "RecordLoss",
    "clean_dialogue",
    "extract_choice",
    "extract_number",
    "extract_option_letter",
    "loss_per_token",
    "loss_scores",
    "perplexity",
]
