"""From token lists to padded batches."""

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

import torch
from torch import Tensor

from datamodules.records import Record

Row = Mapping[str, Any]


class TrainBatch(TypedDict):
    """Integer tensors of shape `(batch, length)`, padded on the right.

    Labels of -100 are not supervised.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor


class EvalBatch(TrainBatch):
    """A training batch with its prompts, padded on the left, and one record per row.

    `candidates` has a row for every candidate of the first record, then of the second, and so on.
    """

    prompt_input_ids: Tensor
    prompt_attention_mask: Tensor
    records: list[Record]
    candidates: NotRequired[TrainBatch]


def pad(rows: Sequence[Sequence[int]], value: int, *, left: bool = False) -> Tensor:
    """Pad lists of integers to the longest.

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

    def __call__(self, rows: Sequence[Row]) -> TrainBatch:
        """Collate tokenized rows."""
        return {
            "input_ids": pad([row["input_ids"] for row in rows], self.pad_id),
            "attention_mask": pad([[1] * len(row["input_ids"]) for row in rows], 0),
            "labels": pad([row["labels"] for row in rows], -100),
        }


class EvalCollator(TrainCollator):
    """Adds the prompts and records, which generation and scoring need."""

    def __call__(self, rows: Sequence[Row]) -> EvalBatch:
        """Collate tokenized rows with their prompts and records."""
        trained = super().__call__(rows)
        batch: EvalBatch = {
            "input_ids": trained["input_ids"],
            "attention_mask": trained["attention_mask"],
            "labels": trained["labels"],
            "prompt_input_ids": pad([row["prompt_ids"] for row in rows], self.pad_id, left=True),
            "prompt_attention_mask": pad(
                [[1] * len(row["prompt_ids"]) for row in rows], 0, left=True
            ),
            "records": [row["record"] for row in rows],
        }
        if "candidate_ids" in rows[0]:
            candidates = [
                {"input_ids": ids, "labels": [-100] * (len(ids) - scored) + ids[-scored:]}
                for row in rows
                for ids, scored in zip(row["candidate_ids"], row["candidate_scored"], strict=True)
            ]
            batch["candidates"] = super().__call__(candidates)
        return batch
