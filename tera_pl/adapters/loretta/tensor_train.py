"""Tensor trains of flattened matrices."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from tera_pl.tensor import plan_modes

# The authors' modes of a dimension times r, for in * r and r * out alike.
OFFICIAL_MODES: dict[tuple[int, int], tuple[int, ...]] = {
    (8, 768): (8, 8, 12, 8),
    (8, 1024): (4, 8, 8, 8, 4),
    (8, 4096): (16, 16, 8, 4, 4),
    (8, 5120): (8, 8, 10, 8, 8),
    (5, 4096): (16, 16, 5, 4, 4),
    (16, 4096): (16, 16, 16, 4, 4),
    (64, 4096): (16, 16, 16, 4, 4, 4),
}
NUM_MODES = 5


def plan_train(dimension: int, r: int, modes: int | Sequence[int] | None) -> tuple[int, ...]:
    """Choose the modes of a factor.

    Args:
        dimension: Size of the layer's input or output.
        r: Rank of the weight update.
        modes: Their number, or their sizes; if not given, the authors' or else five, or as many as
            the prime factors allow.

    Returns:
        Sizes whose product is `dimension * r`.

    Raises:
        ValueError: If there is no such tensorization.
    """
    size = dimension * r
    if modes is not None:
        return plan_modes(size, modes)
    if (r, dimension) in OFFICIAL_MODES:
        return OFFICIAL_MODES[r, dimension]
    for number in range(NUM_MODES, 1, -1):
        try:
            return plan_modes(size, number)
        except ValueError:
            continue
    return (size,)


def draw_cores(modes: Sequence[int], rank: int, rows: int, columns: int) -> list[Tensor]:
    """Draw the cores of a factor as the authors do.

    Args:
        modes: Modes n_1, ..., n_d of the flattened factor.
        rank: Rank R between the cores.
        rows: Rows of the factor.
        columns: Columns of the factor.

    Returns:
        Cores (R_{i-1}, n_i, R_i) with R_0 = R_d = 1: standard normal, divided by sqrt(R_i) and
        multiplied by s^(1/d), s = (rows + columns)^(-1/2).
    """
    ranks = [1, *[rank] * (len(modes) - 1), 1]
    scale = math.sqrt(1 / (rows + columns)) ** (1 / len(modes))
    return [
        torch.randn(left, mode, right) * scale / math.sqrt(right)
        for (left, right), mode in zip(pairwise(ranks), modes, strict=True)
    ]


def contract_train(cores: Sequence[Tensor]) -> Tensor:
    """Contract a tensor train from left to right, `(R_{i-1}, n_i, R_i) -> (n_1 ... n_d,)`."""
    result = cores[0].flatten(0, 1)  # (n_1, R_1)
    for core in cores[1:]:
        result = (result @ core.flatten(1)).reshape(-1, core.shape[-1])
    return result.flatten()
