"""From token lists to padded batches."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Row = Mapping[str, Any]


def pad(rows: Sequence[Sequence[int]], value: int, *, left: bool = False) -> Tensor:
    """Pad lists of numbers to the longest.

    Args:
        rows: The lists.
        value: What to pad with.
        left: Whether the padding comes first.

    Returns:
        Integer tensor of shape `(len(rows), longest)`.

    Example:
        >>> pad([[1, 2], [3]], 0, left=True)
        tensor([[1, 2],
                [0, 3]])
    """
    longest = max(len(row) for row in rows)
    filled = [[value] * (longest - len(row)) for row in rows]
    pairs = zip(filled, rows, strict=True)
    return torch.tensor([[*f, *row] if left else [*row, *f] for f, row in pairs])


class TrainCollator:
    """Pads training rows on the right.

    Args:
        pad_id: Token to pad with; padding has no attention and no label.
    """

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Make a batch of `input_ids`, `attention_mask` and `labels`, each `(batch, length)`."""
        return {
            "input_ids": pad([row["input_ids"] for row in rows], self.pad_id),
            "attention_mask": pad([[1] * len(row["input_ids"]) for row in rows], 0),
            "labels": pad([row["labels"] for row in rows], -100),
        }


class EvalCollator(TrainCollator):
    """Adds to a training batch what generation and scoring need."""

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Make a batch with left-padded `prompt_input_ids` and mask, and the `records`."""
        return super().__call__(rows) | {
            "prompt_input_ids": pad([row["prompt_ids"] for row in rows], self.pad_id, left=True),
            "prompt_attention_mask": pad(
                [[1] * len(row["prompt_ids"]) for row in rows], 0, left=True
            ),
            "records": [row["record"] for row in rows],
        }
