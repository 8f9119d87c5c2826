"""Ranks of a weight update, from its singular values."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Spectrum:
    """Three answers to "what is the rank of this matrix", with the rule behind the first.

    Args:
        rank: Number of singular values above `tolerance` (numerical rank).
        tolerance: `max(rows, columns) * eps * largest singular value`, with `eps` of float32: what
            rounding alone can produce in a matrix that was computed in float32.
        stable_rank: `||W||_F^2 / ||W||_2^2`, at most the rank, insensitive to small values.
        entropy_rank: `exp(H(p))` with `p_i = s_i / sum(s)`: the number of equal singular values
            that would have the same entropy (Roy & Vetterli, 2007).
        largest: Largest singular value.
        max_rank: `min(rows, columns)`.
    """

    rank: int
    tolerance: float
    stable_rank: float
    entropy_rank: float
    largest: float
    max_rank: int


def summarize(matrix: Tensor) -> Spectrum:
    """Compute the ranks of a matrix.

    Args:
        matrix: Of shape `(rows, columns)`, on any device, in any floating type; decomposed there
            in float32, or float64 if it has that type.

    Returns:
        The ranks. A zero matrix has rank zero of every kind.

    Raises:
        ValueError: If the matrix has a NaN or an infinite entry.

    Example:
        >>> summarize(torch.diag(torch.tensor([2.0, 2.0, 1e-9]))).rank
        2
        >>> round(summarize(torch.diag(torch.tensor([2.0, 2.0, 0.0]))).entropy_rank, 4)
        2.0
    """
    if not torch.isfinite(matrix).all():
        raise ValueError(
            f"the update of shape {tuple(matrix.shape)} has entries that are no number"
        )
    wide = matrix.detach().to(torch.promote_types(matrix.dtype, torch.float32))
    values = torch.linalg.svdvals(wide).double()
    largest = values[0].item()
    if largest == 0.0:
        return Spectrum(0, 0.0, 0.0, 0.0, 0.0, len(values))
    # The rule of numpy.linalg.matrix_rank, with the precision of the decomposition.
    tolerance = max(matrix.shape) * torch.finfo(torch.float32).eps * largest
    shares = values / values.sum()
    entropy = -torch.special.xlogy(shares, shares).sum().item()
    return Spectrum(
        rank=int((values > tolerance).sum()),
        tolerance=tolerance,
        stable_rank=(values.square().sum() / largest**2).item(),
        entropy_rank=math.exp(entropy),
        largest=largest,
        max_rank=len(values),
    )
