"""Ranks of a weight update from its singular values."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tera_pl.errors import UserError
from tera_pl.tensor import TensorNetwork, contract

# Huang et al. (2025) count singular values above this, whatever the scale of the weight update.
HIRA_THRESHOLD = 0.005


@dataclass(frozen=True)
class Spectrum:
    """Four definitions of the rank of a matrix, with the tolerance of the first.

    Args:
        rank: Number of singular values above `tolerance` (numerical rank).
        tolerance: `max(rows, columns) * eps * largest singular value`, with `eps` of float32: what
            rounding alone can cause in a matrix that was computed in float32.
        stable_rank: `||W||_F^2 / ||W||_2^2`, at most the rank, insensitive to small values.
        entropy_rank: `exp(H(p))` with `p_i = s_i / sum(s)`: the number of equal singular values
            that would have the same entropy (Roy & Vetterli, 2007).
        largest: Largest singular value.
        max_rank: `min(rows, columns)`.
        hira_rank: Number of singular values above `HIRA_THRESHOLD`, 0.005, whatever the largest.
    """

    rank: int
    tolerance: float
    stable_rank: float
    entropy_rank: float
    largest: float
    max_rank: int
    hira_rank: int


def summarize(matrix: Tensor) -> Spectrum:
    """Compute the ranks of a matrix.

    Args:
        matrix: Of shape `(rows, columns)`, on any device, in any floating dtype; decomposed there
            in float32, or float64 for that dtype.

    Returns:
        The ranks. A zero matrix has rank zero of every kind.

    Raises:
        UserError: If the matrix has a NaN or infinite entry.

    Example:
        >>> summarize(torch.diag(torch.tensor([2.0, 2.0, 1e-9]))).rank
        2
        >>> round(summarize(torch.diag(torch.tensor([2.0, 2.0, 0.0]))).entropy_rank, 4)
        2.0
    """
    return summarize_values(singular_values(matrix), matrix.shape)


def summarize_values(values: Tensor, shape: Sequence[int]) -> Spectrum:
    """Compute the ranks of a matrix from its singular values.

    Args:
        values: Singular values in descending order, at least one; missing ones are zero.
        shape: Rows and columns of the matrix.

    Returns:
        The ranks.
    """
    values = values.double()
    largest = values[0].item()
    if largest == 0.0:
        return Spectrum(0, 0.0, 0.0, 0.0, 0.0, min(shape), 0)
    # The rule of numpy.linalg.matrix_rank, with the precision in which weight updates are computed.
    tolerance = max(shape) * torch.finfo(torch.float32).eps * largest
    # Squares of the values themselves may overflow float64.
    relative = values / largest
    shares = relative / relative.sum()
    return Spectrum(
        rank=int((values > tolerance).sum()),
        tolerance=tolerance,
        stable_rank=relative.square().sum().item(),
        entropy_rank=math.exp(-torch.special.xlogy(shares, shares).sum().item()),
        largest=largest,
        max_rank=min(shape),
        hira_rank=int((values > HIRA_THRESHOLD).sum()),
    )


def singular_values(matrix: Tensor) -> Tensor:
    """Decompose a matrix.

    Args:
        matrix: Of shape `(rows, columns)`, on any device.

    Returns:
        The `min(rows, columns)` singular values in descending order.

    Raises:
        UserError: If the matrix has a NaN or infinite entry.
    """
    _check_finite(matrix, matrix.shape)
    wide = matrix.detach().to(torch.promote_types(matrix.dtype, torch.float32))
    return torch.linalg.svdvals(wide)


def singular_values_of_product(left: Tensor, right: Tensor) -> Tensor:
    """Decompose `left @ right` without multiplying it out, in float64.

    With `left = Q_1 T_1` and `right^T = Q_2 T_2`, the singular values are those of `T_1 T_2^T`, a
    matrix of at most the inner size, and zeros.

    Args:
        left: Of shape `(rows, inner)`.
        right: Of shape `(inner, columns)`.

    Returns:
        The `min(rows, inner, columns)` largest singular values in descending order.

    Raises:
        UserError: If a factor has a NaN or infinite entry.
    """
    shape = (left.shape[0], right.shape[1])
    _check_finite(left, shape)
    _check_finite(right, shape)
    left, right = left.detach().double(), right.detach().double()
    if left.shape[1] < left.shape[0]:
        left = torch.linalg.qr(left, mode="r").R
    if right.shape[0] < right.shape[1]:
        right = torch.linalg.qr(right.T, mode="r").R.T
    return torch.linalg.svdvals(left @ right)


def singular_values_of_network(network: TensorNetwork) -> Tensor:
    """Decompose the weight update of a tensor network, by its structure where that helps.

    With `A_i^T = Q_i T_i` for every mode, the Kronecker product of the `Q_i` has orthonormal
    columns, so that the network with factors `T_i^T` has the same singular values; if a rank is
    below the size of its mode, its matrix is smaller.

    Args:
        network: The network.

    Returns:
        The largest singular values in descending order; missing ones are zero.

    Raises:
        UserError: If the weight update has a NaN or infinite entry.
    """
    core = network.core.detach()
    wide = torch.promote_types(core.dtype, torch.float32)
    factors = [factor.detach().to(wide) for factor in network.factors]
    if any(rank < size for rank, size in zip(network.ranks, network.modes, strict=True)):
        factors = [
            torch.linalg.qr(factor.T, mode="r").R.T if factor.shape[0] < factor.shape[1] else factor
            for factor in factors
        ]
    vectors = [vector.detach().to(wide) for vector in network.vectors]
    small = TensorNetwork(core.to(wide), factors, vectors, network.out_order, network.scaling)
    return singular_values(contract(small))


def _check_finite(matrix: Tensor, shape: Sequence[int]) -> None:
    if not torch.isfinite(matrix).all():
        raise UserError(f"the weight update of shape {tuple(shape)} has NaN or infinite entries")
