"""Fit the scaling vectors of a tensor network to a weight update by alternating least squares.

Notation as in `tera_pl.tensor.network`. The weight update is linear in each vector while the others
are fixed. With `A_i^T = Q_i S_i`, it is the core with vectors and all `S_j` applied, rotated by the
`Q_j`. For vector `i`, let `B` have as columns the slices of the core along mode `i`, scaled by
the other vectors and with their `S_j` applied, and `B = Q R`. Then

    min ||Y - X d_i||,   X = S_i and R multiplied column by column (Khatri-Rao)
                         Y = the target in the coordinates of the Q_j and Q

so that no matrix is larger than the core or has more than `R_i^3` entries; the weight update itself
is never built. Nor are the normal equations, whose condition number is the square of that of `X`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tera_pl.tensor import TensorNetwork
from tera_pl.tensor.network import kron_matmul, kron_matmul_left


@dataclass(frozen=True)
class Fit:
    """Scaling vectors that bring a weight update near a target.

    Args:
        vectors: One per mode, in float64.
        errors: `||W - DeltaW||_F^2` at the start and after every sweep over the modes; it grows
            only by rounding.
    """

    vectors: tuple[Tensor, ...]
    errors: tuple[float, ...]

    @property
    def error(self) -> float:
        """The squared distance after the last sweep."""
        return self.errors[-1]


def fit_vectors(
    network: TensorNetwork, target: Tensor, max_sweeps: int = 200, tolerance: float = 1e-6
) -> Fit:
    """Fit the scaling vectors to a target, in float64.

    Args:
        network: The initial network; core, factors and scaling stay as they are. Not changed.
        target: Of shape `(out_features, in_features)`.
        max_sweeps: Largest number of sweeps over all modes.
        tolerance: Stop when a sweep lowers the error by less than this share of the target's
            squared norm.

    Returns:
        Vectors at or near a local minimum.

    Raises:
        ValueError: If the target has another shape than the weight update.
    """
    shape = (network.out_features, network.in_features)
    if target.shape != shape:
        raise ValueError(f"target has shape {tuple(target.shape)}: expected {shape}")
    network, target = double(network), target.double()
    problem = _Problem.of(network, target)
    norm = target.square().sum().item()
    vectors = list(network.vectors)
    matrix, right = problem.equations(vectors, 0)
    errors = [norm + _excess(matrix, right, vectors[0])]
    for _ in range(max_sweeps):
        error = errors[-1]
        for mode in range(network.core.ndim):
            vectors = _balanced(vectors)
            matrix, right = problem.equations(vectors, mode)
            # By singular values: a zero in another vector makes columns zero.
            vectors[mode] = torch.linalg.lstsq(matrix, right, driver="gelsd").solution.squeeze(1)
            error = norm + _excess(matrix, right, vectors[mode])
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
        starts: Initial scaling vectors, one set per fit.
        sweeps: Largest number of sweeps of each fit.

    Returns:
        The fit with the smallest error.
    """
    fits = [fit_vectors(_with(network, vectors), target, sweeps) for vectors in starts]
    return min(fits, key=lambda fit: fit.error)


def random_starts(ranks: Sequence[int], number: int, seed: int = 0) -> list[list[Tensor]]:
    """Draw initial scaling vectors: first all ones, then normal ones.

    Args:
        ranks: One size per vector.
        number: Number of sets.
        seed: Seed of the draw.

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
        out_order: Any; the result does not depend on it.
        starts: Number of starts.

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
    """Copy a network in float64, without gradients."""
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
    """Scale all vectors to the same length, which does not change their outer product."""
    lengths = [vector.norm().item() for vector in vectors]
    if min(lengths) == 0.0:
        return list(vectors)
    mean = math.exp(sum(map(math.log, lengths)) / len(lengths))
    return [vector * (mean / length) for vector, length in zip(vectors, lengths, strict=True)]


def _slices(tensor: Tensor, mode: int) -> Tensor:
    """Flatten the slices along a mode, one row each."""
    return tensor.movedim(mode, 0).flatten(1)


@dataclass(frozen=True)
class _Problem:
    """What does not change with the vectors.

    Args:
        core: Scaling included.
        triangles: `S_i`, of shape `(min(R_i, I_i), R_i)`.
        image: The target in the coordinates of the `Q_i`, one mode each.
    """

    core: Tensor
    triangles: Sequence[Tensor]
    image: Tensor

    @classmethod
    def of(cls, network: TensorNetwork, target: Tensor) -> "_Problem":
        bases, triangles = zip(*(torch.linalg.qr(f.T) for f in network.factors), strict=True)
        image = kron_matmul(target, bases[network.out_order :])
        image = kron_matmul_left(bases[: network.out_order], image)
        image = image.reshape([basis.shape[1] for basis in bases])
        return cls(network.core * network.scaling, triangles, image)

    def equations(self, vectors: Sequence[Tensor], mode: int) -> tuple[Tensor, Tensor]:
        """Compute `X` and the column `Y` for the vector of a mode."""
        scaled = self.core
        for other, vector in enumerate(vectors):
            if other != mode:
                scaled = scaled * vector.reshape(-1, *[1] * (scaled.ndim - other - 1))
        others = [triangle.T for other, triangle in enumerate(self.triangles) if other != mode]
        basis, triangle = torch.linalg.qr(kron_matmul(_slices(scaled, mode), others).T)
        matrix = self.triangles[mode].unsqueeze(1) * triangle
        return matrix.flatten(0, 1), (_slices(self.image, mode) @ basis).reshape(-1, 1)


def _excess(matrix: Tensor, right: Tensor, vector: Tensor) -> float:
    """Squared error minus the target's squared norm: never positive at a minimum."""
    left = right - matrix @ vector.unsqueeze(1)
    return (left.square().sum() - right.square().sum()).item()
