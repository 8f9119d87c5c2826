"""Fit the vectors of a tensor network to a given update by alternating least squares.

Notation as in `tera_pl.tensor.network`. The update is linear in each vector while the others are
fixed. With `C_r` the slice `r` of the core scaled by the other vectors, the normal equations of
vector `i` are `H d_i = b` with

    H(r, s) = (A_i A_i^T)(r, s) <C_r, C_s x_j (A_j A_j^T) for all j != i>
    b(r)    = <C_r, V_r>,   V = L^T W M^T folded

so that everything happens in tensors of the core's size; the update itself is never built.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tera_pl.tensor import TensorNetwork
from tera_pl.tensor.network import kron_matmul, kron_matmul_left, transposed


@dataclass(frozen=True)
class Fit:
    """Vectors that bring an update near a target.

    Args:
        vectors: One per mode, in float64.
        errors: `||W - DeltaW||_F^2` at the start and after every sweep over the modes; it never
            grows but by rounding.
    """

    vectors: tuple[Tensor, ...]
    errors: tuple[float, ...]

    @property
    def error(self) -> float:
        """The squared distance that was reached."""
        return self.errors[-1]


def fit_vectors(
    network: TensorNetwork, target: Tensor, max_sweeps: int = 200, tolerance: float = 1e-6
) -> Fit:
    """Bring the update near a target by its vectors, in float64.

    Args:
        network: Where to start: core, factors and scaling stay, vectors are replaced. Nothing in it
            is changed.
        target: Of shape `(out_features, in_features)`.
        max_sweeps: Largest number of sweeps over all modes.
        tolerance: Stop when a sweep lowers the error by less than this share of the target's
            squared norm.

    Returns:
        The vectors of a local minimum, or near it.

    Raises:
        ValueError: If the target has another shape than the update.
    """
    shape = (network.out_features, network.in_features)
    if target.shape != shape:
        raise ValueError(f"target has shape {tuple(target.shape)}: expected {shape}")
    network, target = double(network), target.double()
    core = network.core * network.scaling
    grams = [factor @ factor.T for factor in network.factors]
    image = kron_matmul(target, transposed(network.in_factors))
    image = kron_matmul_left(transposed(network.out_factors), image).reshape(network.ranks)
    norm = target.square().sum().item()
    vectors = list(network.vectors)
    errors = [_error(core, vectors, grams, image, norm)]
    for _ in range(max_sweeps):
        error = errors[-1]
        for mode in range(core.ndim):
            vectors = _balanced(vectors)
            vectors[mode], error = _solve(core, vectors, grams, image, mode)
            error += norm
        errors.append(max(error, 0.0))
        if errors[-2] - errors[-1] <= tolerance * norm:
            break
    return Fit(tuple(_balanced(vectors)), tuple(errors))


def best_fit(
    network: TensorNetwork, target: Tensor, starts: Sequence[Sequence[Tensor]], sweeps: int = 200
) -> Fit:
    """Fit from several starts and keep the best.

    Args:
        network: Core, factors and scaling.
        target: Of shape `(out_features, in_features)`.
        starts: Sets of vectors to start from.
        sweeps: Largest number of sweeps for each.

    Returns:
        The fit with the smallest error.
    """
    fits = [fit_vectors(_with(network, vectors), target, sweeps) for vectors in starts]
    return min(fits, key=lambda fit: fit.error)


def random_starts(ranks: Sequence[int], number: int, seed: int = 0) -> list[list[Tensor]]:
    """Draw vectors to start from: all ones first, then normal ones.

    Args:
        ranks: One size per vector.
        number: How many sets.
        seed: Of the draw.

    Returns:
        Sets of vectors in float64.
    """
    generator = torch.Generator().manual_seed(seed)
    starts = [[torch.ones(rank, dtype=torch.float64) for rank in ranks]]
    return starts + [
        [torch.randn(rank, generator=generator, dtype=torch.float64) for rank in ranks]
        for _ in range(number - 1)
    ]


def best_rank_one(
    tensor: Tensor, out_order: int, starts: int = 4
) -> tuple[tuple[Tensor, ...], float]:
    """Find a tensor of rank one near a tensor.

    Exact for two modes, by a singular value decomposition; a local minimum, the best of several,
    for more.

    Args:
        tensor: Of two modes or more, in float64.
        out_order: Any split; the result does not depend on it.
        starts: How many starts to try.

    Returns:
        The vectors, and the squared distance `||Z||_F^2 - ||Z||_2^2`.
    """
    if tensor.ndim == 2:
        left, values, right = torch.linalg.svd(tensor, full_matrices=False)
        return (left[:, 0] * values[0], right[0]), values[1:].square().sum().item()
    ranks = tuple(tensor.shape)
    factors = [torch.eye(rank, dtype=tensor.dtype) for rank in ranks]
    network = TensorNetwork(torch.ones_like(tensor), factors, random_starts(ranks, 1)[0], out_order)
    # The leading singular vectors of the unfoldings are a good start (De Lathauwer et al., 2000).
    leading = [
        torch.linalg.svd(tensor.movedim(mode, 0).flatten(1), full_matrices=False).U[:, 0]
        for mode in range(tensor.ndim)
    ]
    target = tensor.reshape(network.out_features, network.in_features)
    fit = best_fit(network, target, [leading, *random_starts(ranks, starts)])
    return fit.vectors, fit.error


def double(network: TensorNetwork) -> TensorNetwork:
    """Give a network in float64, without gradients."""
    return TensorNetwork(
        network.core.detach().double(),
        [factor.detach().double() for factor in network.factors],
        [vector.detach().double() for vector in network.vectors],
        network.out_order,
        network.scaling,
    )


def _with(network: TensorNetwork, vectors: Sequence[Tensor]) -> TensorNetwork:
    return replace(network, vectors=vectors)


def _balanced(vectors: Sequence[Tensor]) -> list[Tensor]:
    """Give all vectors the same length, which leaves their outer product as it is."""
    lengths = [vector.norm().item() for vector in vectors]
    if min(lengths) == 0.0:
        return list(vectors)
    mean = math.exp(sum(map(math.log, lengths)) / len(lengths))
    return [vector * (mean / length) for vector, length in zip(vectors, lengths, strict=True)]


def _rows(tensor: Tensor, mode: int) -> Tensor:
    """Slices of a mode as rows."""
    return tensor.movedim(mode, 0).flatten(1)


def _normal_equations(
    core: Tensor, vectors: Sequence[Tensor], grams: Sequence[Tensor], image: Tensor, mode: int
) -> tuple[Tensor, Tensor]:
    scaled = core
    for other, vector in enumerate(vectors):
        if other != mode:
            scaled = scaled * vector.reshape(-1, *[1] * (core.ndim - other - 1))
    rows = _rows(scaled, mode)
    moved = kron_matmul(rows, [gram for other, gram in enumerate(grams) if other != mode])
    return grams[mode] * (rows @ moved.T), (rows * _rows(image, mode)).sum(1)


def _solve(
    core: Tensor, vectors: Sequence[Tensor], grams: Sequence[Tensor], image: Tensor, mode: int
) -> tuple[Tensor, float]:
    """The best vector of a mode, and what the squared error is above the target's norm."""
    matrix, right = _normal_equations(core, vectors, grams, image, mode)
    # Not a Cholesky factor: a zero in another vector makes the equations singular.
    solution = torch.linalg.pinv(matrix, hermitian=True) @ right
    return solution, (solution @ matrix @ solution - 2 * right @ solution).item()


def _error(
    core: Tensor, vectors: Sequence[Tensor], grams: Sequence[Tensor], image: Tensor, norm: float
) -> float:
    matrix, right = _normal_equations(core, vectors, grams, image, 0)
    start = vectors[0]
    return norm + (start @ matrix @ start - 2 * right @ start).item()
