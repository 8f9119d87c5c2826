"""The three theorems of TeRA as functions (Gu et al., arXiv 2509.03234).

Notation as in `tera_pl.tensor.network`: `DeltaW = L D_L G_k D_R M`, of shape
`(out_features, in_features)`. `docs/theory.md` has the statements, their proofs and their
differences from the paper's.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tera_pl.tensor import TensorNetwork
from tera_pl.tensor.network import kron_matmul, kron_matmul_left
from tera_pl.theory.fitting import best_rank_one, double


def rank_bound(ranks: Sequence[int], out_order: int) -> int:
    """Bound the rank of a weight update by Theorem 1 (Eq. 8): `min(prod R_out, prod R_in)`.

    Args:
        ranks: `(R_1, ..., R_N)`.
        out_order: Number of leading ranks that belong to the output dimension.

    Returns:
        The bound.

    Example:
        >>> rank_bound((8, 8, 4), out_order=2)
        4
    """
    return min(math.prod(ranks[:out_order]), math.prod(ranks[out_order:]))


def generic_rank(network: TensorNetwork) -> int:
    """Compute the rank of a weight update for almost all cores and factors of these sizes.

    With `n_i` entries of vector `i` that are not zero, it is the smaller of the products of
    `min(n_i, I_i)` over the out modes and over the in modes. No core and factors with these vectors
    give a larger rank. A zero in a vector of size `R_i` reduces the product over its modes by the
    share `1 / R_i`: by half in a mode of size two.

    Args:
        network: Only its vectors, sizes and `out_order` matter, not its core and factors.

    Returns:
        The rank, 0 if a vector or the scaling is zero.
    """
    if network.scaling == 0:
        return 0
    alive = [
        min(int((vector != 0).sum()), size)
        for vector, size in zip(network.vectors, network.modes, strict=True)
    ]
    return rank_bound(alive, network.out_order)


def factorizations(size: int, smallest: int = 2) -> Iterator[tuple[int, ...]]:
    """Generate all factorizations of a size into factors of at least two, regardless of order.

    Args:
        size: At least 2.
        smallest: Smallest allowed factor.

    Yields:
        The factors in ascending order; the size alone comes last.

    Example:
        >>> list(factorizations(12))
        [(2, 2, 3), (2, 6), (3, 4), (12,)]
    """
    for first in range(smallest, math.isqrt(size) + 1):
        if size % first == 0:
            for rest in factorizations(size // first, first):
                yield (first, *rest)
    if size >= smallest:
        yield (size,)


@dataclass(frozen=True)
class FullRankCounts:
    """Trainable parameters of one weight update of full rank, by method.

    Args:
        tera_fewest: Every dimension tensorized into its prime factors.
        tera_most: Neither dimension split.
        hira: Rank one: `diag(b) W_0 diag(a)` has the rank of `W_0`.
        vera: One vector for the rows and one for the rank, which must be the smaller dimension.
        lora: Two factors whose inner size is the smaller dimension.
    """

    tera_fewest: int
    tera_most: int
    hira: int
    vera: int
    lora: int


def full_rank_counts(out_features: int, in_features: int) -> FullRankCounts:
    """Count the trainable parameters with which each method allows full rank (Theorem 2).

    Args:
        out_features: Rows of the weight update, at least 2.
        in_features: Columns, at least 2.

    Returns:
        The counts. VeRA trains fewer than the paper's `out_features + in_features` if the
        matrix has more columns than rows.
    """
    least = min(out_features, in_features)
    total = out_features + in_features
    # Splitting a factor never increases the sum, so prime factors have the smallest.
    fewest = sum(min(map(sum, factorizations(size))) for size in (out_features, in_features))
    return FullRankCounts(fewest, total, total, out_features + least, total * least)


@dataclass(frozen=True)
class ErrorBound:
    """The terms of Theorem 3's bound on the smallest `||W - DeltaW||_F^2` over all vectors.

    Args:
        outside: First term, `||W - L L^+ W M^+ M||_F^2`: what no core and vectors reach.
        residual: `||Z||_F^2 - ||Fold(Z)||_2^2`, with `Z = L^+ W M^+ / G_k`: the squared distance of
            `Z` to the nearest tensor of rank one. Infinite if the core has a zero.
        largest: Largest absolute entry of the core, `g_max`.
        frobenius: `||L||_F^2 ||M||_F^2`, as in the paper.
        spectral: `||L||_2^2 ||M||_2^2`, never larger.
        nearest: The vectors of that tensor of rank one; `None` if the core has a zero.
    """

    outside: float
    residual: float
    largest: float
    frobenius: float
    spectral: float
    nearest: tuple[Tensor, ...] | None

    @property
    def printed(self) -> float:
        """The paper's Eq. 10, with the first power of `g_max`: no bound where `g_max > 1`."""
        return self.outside + self.largest * self.residual * self.frobenius

    @property
    def squared(self) -> float:
        """The same with `g_max ** 2`, which is what the proof gives."""
        return self.outside + self.largest**2 * self.residual * self.frobenius

    @property
    def tight(self) -> float:
        """With `g_max ** 2` and spectral norms.

        It is reached by a core of one absolute value and factors with orthonormal rows or columns.
        """
        return self.outside + self.largest**2 * self.residual * self.spectral


def error_bound(network: TensorNetwork, target: Tensor) -> ErrorBound:
    """Compute both terms of Theorem 3's bound, in float64.

    The spectral norm of a tensor of three modes or more is hard to compute. The value that
    alternating least squares find is at most that norm, so the second term is at least the true
    one, and the result is still a bound.

    Args:
        network: Only its core and factors matter, not its vectors and scaling.
        target: The weight update to approximate, of shape `(out_features, in_features)`.

    Returns:
        The terms of the bound.
    """
    network, target = double(network), target.double()
    inverses = [torch.linalg.pinv(factor) for factor in network.factors]
    k = network.out_order
    # (A^+) is (I, R): rows @ kron(A_in^+) is W M^+, and likewise from the left.
    inner = two_sided([inverse.T for inverse in inverses[:k]], target, inverses[k:])
    projections = [
        inverse @ factor for inverse, factor in zip(inverses, network.factors, strict=True)
    ]
    inside = two_sided(projections[:k], target, projections[k:])
    core = network.unfolded_core()
    nearest, residual = None, math.inf
    if bool((core != 0).all()):
        ratio = inner / core
        nearest, residual = best_rank_one(ratio.reshape(network.ranks), k)
    return ErrorBound(
        outside=(target - inside).square().sum().item(),
        residual=residual,
        largest=core.abs().max().item(),
        frobenius=math.prod(factor.square().sum().item() for factor in network.factors),
        spectral=math.prod(
            torch.linalg.matrix_norm(factor, 2).item() ** 2 for factor in network.factors
        ),
        nearest=nearest,
    )


def two_sided(left: Sequence[Tensor], matrix: Tensor, right: Sequence[Tensor]) -> Tensor:
    """Multiply a matrix by Kronecker products: `kron(left) @ matrix @ kron(right)`.

    Args:
        left: Matrices of shapes `(a_i, b_i)`.
        matrix: Of shape `(prod b_i, prod c_i)`.
        right: Matrices of shapes `(c_i, d_i)`.

    Returns:
        Matrix of shape `(prod a_i, prod d_i)`. The Kronecker products are never formed.
    """
    rows = kron_matmul(matrix, right)
    return kron_matmul_left([factor.T for factor in left], rows)
