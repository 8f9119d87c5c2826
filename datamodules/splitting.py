"""Hold records of a dataset out, the same ones in every run."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from datasets import Dataset

from datamodules.errors import UserError
from datamodules.records import Record

LARGEST_TENTH = 120  # the size of the paper's validation splits


@dataclass(frozen=True)
class Split:
    """Which training examples are held out for validation.

    Args:
        size: How many (paper: 120); if null a tenth of them, at least one and at most 120.
        method: `random` as `datasets.Dataset.train_test_split` chooses, which LLM-Adapters uses, or
            `tail`: the last ones after `random.shuffle`, as in HiRA.
        seed: Seed of the choice; no other seed changes it.
    """

    size: int | None = 120
    method: Literal["random", "tail"] = "random"
    seed: int = 42


def hold_out(
    records: Sequence[Record], split: Split, key: str
) -> tuple[list[Record], list[Record]]:
    """Hold records out.

    Args:
        records: All of them.
        split: Which.
        key: YAML key of the size, for the message.

    Returns:
        What is left and what is held out, both in the order of the records.

    Raises:
        UserError: If there are not more records than are to be held out.
    """
    size = split.size
    if size is None:
        size = min(max(1, len(records) // 10), LARGEST_TENTH)
    if not 1 <= size < len(records):
        raise UserError(
            f"{key} is {size}, the training data has {len(records)} records: expected at least 1 "
            "to hold out and more than that in all"
        )
    order = list(range(len(records)))
    if split.method == "tail":
        random.Random(split.seed).shuffle(order)
        held_out = set(order[-size:])
    else:
        indices = Dataset.from_dict({"index": order})
        splits = indices.train_test_split(size, shuffle=True, seed=split.seed)
        held_out = set(splits["test"]["index"])
    return (
        [record for i, record in enumerate(records) if i not in held_out],
        [record for i, record in enumerate(records) if i in held_out],
    )
