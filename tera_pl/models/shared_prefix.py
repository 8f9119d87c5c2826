"""Sequences that begin alike, concatenated with their common beginning once.

For `packed_attention`: the tokens of a group are its prefix and, one after another, the rest of
each sequence. The rest of a sequence attends to the prefix and to itself.
"""

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import torch

Ids = Sequence[int]


def share_prefixes(groups: Sequence[Sequence[Ids]]) -> tuple[dict[str, Any], list[list[int]]]:
    """Concatenate groups of sequences into one row without padding.

    Args:
        groups: Groups of sequences of token ids, at least one sequence in each.

    Returns:
        Arguments of a model with packed attention: `input_ids` and `position_ids`, each
        `(1, tokens)`; the `lengths` of the groups, the `distances` of their tokens, and a mask that
        masks nothing. And for each sequence the place of each of its tokens in the row.

    Example:
        >>> inputs, places = share_prefixes([[[7, 8, 5], [7, 8, 6, 9]]])
        >>> inputs["input_ids"], places
        (tensor([[7, 8, 5, 6, 9]]), [[0, 1, 2], [0, 1, 3, 4]])
    """
    tokens: list[int] = []
    positions: list[int] = []
    lengths, distances, places = [], [], []
    for group in groups:
        shared = sum(1 for _ in takewhile(_equal, zip(*group, strict=False)))
        start = len(tokens)
        owners = torch.full((shared,), -1)  # the prefix belongs to all
        tokens += group[0][:shared]
        positions += range(shared)
        for number, sequence in enumerate(group):
            own = len(sequence) - shared
            places.append([*range(start, start + shared), *range(len(tokens), len(tokens) + own)])
            tokens += sequence[shared:]
            positions += range(shared, len(sequence))
            owners = torch.cat([owners, torch.full((own,), number)])
        lengths.append(len(owners))
        position = torch.tensor(positions[start:])
        own_or_shared = ((owners == -1) | (owners == owners.unsqueeze(1))).tril()
        distances.append((position.unsqueeze(1) - position).masked_fill(~own_or_shared, -1))
    inputs = {
        "input_ids": torch.tensor([tokens]),
        "position_ids": torch.tensor([positions]),
        "lengths": lengths,
        "distances": distances,
        # transformers passes a 4-D mask on; it would expand a 2-D one to tokens x tokens.
        "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool),
    }
    return inputs, places


def _equal(column: tuple[int, ...]) -> bool:
    return len(set(column)) == 1
