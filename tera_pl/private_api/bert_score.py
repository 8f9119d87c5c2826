"""Private names of bert-score."""

from typing import Any

from bert_score import BERTScorer


def tokenizer_of(scorer: BERTScorer) -> Any:
    """Give the tokenizer of a scorer.

    Args:
        scorer: The scorer.

    Returns:
        A tokenizer of transformers.
    """
    return scorer._tokenizer
