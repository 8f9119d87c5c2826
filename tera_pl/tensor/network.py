"""The tensor network of TeRA and the weight update it represents.

Notation, as in the paper (Gu et al., arXiv 2509.03234, Eq. 5 and 6), modes counted from 0:

    N        number of modes, ordered (*out_modes, *in_modes), row-major
    k        number of out modes, `out_order`
    I_i R_i  size and rank of mode i
    G        core, (R_0, ..., R_{N-1}); G_k its unfolding, (prod R_out, prod R_in)
    A_i      factor, (R_i, I_i)
    d_i      scaling vector, (R_i,), the trainable diagonal
    L, M     kron of the out factors transposed, kron of the in factors; never formed
    D_L D_R  diagonals: kron of the out vectors times `scaling`, kron of the in vectors

    DeltaW = L D_L G_k D_R M,   of shape (out_features, in_features)
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce

import torch
from torch import Tensor

from tera_pl.tensor.compute import NetworkShape
from tera_pl.tensor.full_float32 import full_float32


@dataclass(frozen=True)
class TensorNetwork:
    """Core, factors and scaling vectors of one weight update.

    Args:
        core: Tensor of shape `(R_0, ..., R_{N-1})`.
        factors: One matrix of shape `(R_i, I_i)` per mode.
        vectors: One scaling vector of shape `(R_i,)` per mode.
        out_order: Number of leading modes that make up the output dimension, in `[1, N)`.
        scaling: Multiplies the weight update.
        parts: For some modes the matrices whose Kronecker product the factor is; an empty sequence
            for the identity. Products go through them.
        core_parts: The matrices whose Kronecker product the unfolded core is, if it is one.
        recompute: Whether backward computes again what forward could save for it.

    Attributes:
        modes: Sizes `(I_0, ..., I_{N-1})`.
        out_factors: Factors of the output dimension, as products go through them.
        in_factors: Factors of the input dimension, likewise.
        shape: Sizes of all matrices that products go through; bits are those of the core.

    Raises:
        ValueError: If the number of modes or shapes disagree, naming the mode.
    """

    core: Tensor
    factors: Sequence[Tensor]
    vectors: Sequence[Tensor]
    out_order: int
    scaling: float = 1.0
    parts: Mapping[int, Sequence[Tensor]] = field(default_factory=dict)
    core_parts: Sequence[Tensor] = ()
    recompute: bool = False
    # Derived once: every forward pass asks for them.
    modes: tuple[int, ...] = field(init=False, compare=False, repr=False)
    out_factors: "Matrices" = field(init=False, compare=False, repr=False)
    in_factors: "Matrices" = field(init=False, compare=False, repr=False)
    shape: NetworkShape = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not len(self.factors) == len(self.vectors) == self.core.ndim:
            raise ValueError(
                f"core has {self.core.ndim} modes, but there are {len(self.factors)} factors and "
                f"{len(self.vectors)} vectors: expected one of each per mode"
            )
        if not 1 <= self.out_order < self.core.ndim:
            raise ValueError(
                f"out_order is {self.out_order}: expected 1 to {self.core.ndim - 1}, for a core "
                f"of {self.core.ndim} modes"
            )
        for mode, (factor, vector) in enumerate(zip(self.factors, self.vectors, strict=True)):
            rank = self.core.shape[mode]
            if factor.ndim != 2 or factor.shape[0] != rank or vector.shape != (rank,):
                raise ValueError(
                    f"mode {mode} has rank {rank}: expected a factor of shape ({rank}, size) and "
                    f"a vector of shape ({rank},), got {tuple(factor.shape)} and "
                    f"{tuple(vector.shape)}"
                )
        self._set("modes", tuple(factor.shape[1] for factor in self.factors))
        self._set("out_factors", self._matrices(range(self.out_order)))
        self._set("in_factors", self._matrices(range(self.out_order, self.core.ndim)))
        self._set("shape", self._product_shape())

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # the class is frozen

    @property
    def ranks(self) -> tuple[int, ...]:
        """Ranks `(R_0, ..., R_{N-1})`."""
        return tuple(self.core.shape)

    @property
    def core_matrices(self) -> Sequence[Tensor]:
        """The matrices whose Kronecker product the unfolded core is, for products."""
        return self.core_parts or [self.unfolded_core()]

    @property
    def out_features(self) -> int:
        """Product of the out modes."""
        return math.prod(self.modes[: self.out_order])

    @property
    def in_features(self) -> int:
        """Product of the in modes."""
        return math.prod(self.modes[self.out_order :])

    def cast(self, dtype: torch.dtype) -> "TensorNetwork":
        """Cast core and factors to a dtype, not the scaling vectors."""
        if self.core.dtype == dtype:
            return self
        return replace(
            self,
            core=self.core.to(dtype),
            factors=[factor.to(dtype) for factor in self.factors],
            parts={mode: [part.to(dtype) for part in parts] for mode, parts in self.parts.items()},
            core_parts=[part.to(dtype) for part in self.core_parts],
        )

    def _product_shape(self) -> NetworkShape:
        matrices = [*self.out_factors, *self.in_factors]
        sizes = [(m, m) if isinstance(m, int) else (m.shape[0], m.shape[1]) for m in matrices]
        return NetworkShape(
            modes=tuple(size for _, size in sizes),
            ranks=tuple(rank for rank, _ in sizes),
            out_order=len(self.out_factors),
            identity=frozenset(i for i, m in enumerate(matrices) if isinstance(m, int)),
            core=tuple((part.shape[0], part.shape[1]) for part in self.core_matrices),
            bits=8 * self.core.element_size(),
        )

    def _matrices(self, modes: range) -> "Matrices":
        matrices: list[Tensor | int] = []
        for mode in modes:
            rank = self.core.shape[mode]  # of an identity, the size
            matrices += self.parts.get(mode, [self.factors[mode]]) or [rank]
        return matrices

    def unfolded_core(self) -> Tensor:
        """Return `G_k`, `(prod R_out, prod R_in)`: a view of the core, or its parts multiplied."""
        if self.core_parts:
            return reduce(torch.kron, self.core_parts)
        return self.core.reshape(math.prod(self.ranks[: self.out_order]), -1)

    def diagonals(self) -> tuple[Tensor, Tensor]:
        """Return the diagonals of `D_L`, scaling included, and `D_R`; differentiable."""
        left = kron_vectors(self.vectors[: self.out_order]) * self.scaling
        return left, kron_vectors(self.vectors[self.out_order :])


def kron_vectors(vectors: Sequence[Tensor]) -> Tensor:
    """Compute the Kronecker product of vectors, `(..., sizes) -> (..., prod sizes)`."""
    product = vectors[0]
    for vector in vectors[1:]:
        product = (product.unsqueeze(-1) * vector.unsqueeze(-2)).flatten(-2)
    return product


# An integer stands for the identity of that size.
Matrices = Sequence[Tensor | int]


def kron_matmul(rows: Tensor, matrices: Matrices) -> Tensor:
    """Multiply rows by a Kronecker product of matrices, mode by mode: `rows @ kron(matrices)`.

    Args:
        rows: Of shape `(T, prod a_i)`.
        matrices: Of shapes `(a_i, b_i)`; an integer is the identity of that size.

    Returns:
        Tensor of shape `(T, prod b_i)`. The Kronecker product is never formed.
    """
    return _multiply_modes(rows.unsqueeze(2), matrices).squeeze(2)


def kron_matmul_left(matrices: Matrices, columns: Tensor) -> Tensor:
    """Multiply columns by a transposed Kronecker product: `kron(matrices).T @ columns`.

    Args:
        matrices: Of shapes `(a_i, b_i)`; an integer is the identity of that size.
        columns: Of shape `(prod a_i, C)`.

    Returns:
        Tensor of shape `(prod b_i, C)`.
    """
    return _multiply_modes(columns.unsqueeze(0), matrices).squeeze(0)


def _multiply_modes(values: Tensor, matrices: Matrices) -> Tensor:
    """Multiply the middle dimension, `(T, prod a_i, C) -> (T, prod b_i, C)`."""
    num_rows, size, num_columns = values.shape
    before, after = num_rows, size * num_columns
    for matrix in matrices:
        if isinstance(matrix, int):
            before, after = before * matrix, after // matrix
            continue
        after //= matrix.shape[0]
        if after == 1:
            values = values.reshape(before, matrix.shape[0]) @ matrix
        elif after >= matrix.shape[0]:
            values = matrix.T @ values.reshape(before, matrix.shape[0], after)
        else:
            # Many tall products with a few columns each are slow: fold them into one.
            folded = values.reshape(before, matrix.shape[0], after).transpose(1, 2)
            product = folded.reshape(before * after, matrix.shape[0]) @ matrix
            values = product.reshape(before, after, matrix.shape[1]).transpose(1, 2)
        before *= matrix.shape[1]
        size = size // matrix.shape[0] * matrix.shape[1]
    return values.reshape(num_rows, size, num_columns)


def transposed(matrices: Matrices) -> Matrices:
    """Transpose every matrix, as views."""
    return [matrix if isinstance(matrix, int) else matrix.T for matrix in matrices]


def build_delta_weight(network: TensorNetwork, left: Tensor, right: Tensor) -> Tensor:
    """Multiply out `L D_L G_k D_R M` for given diagonals.

    Args:
        network: Supplies core and factors.
        left: Diagonal of `D_L`, of shape `(prod R_out,)`.
        right: Diagonal of `D_R`, of shape `(prod R_in,)`.

    Returns:
        Matrix of shape `(out_features, in_features)`, in the dtype of the core.
    """
    core = network.unfolded_core()
    scaled = core * left.unsqueeze(1)
    # In place without autograd: matrices of this size are most of the memory traffic.
    scaled = scaled * right if torch.is_grad_enabled() else scaled.mul_(right)
    return kron_matmul_left(
        network.out_factors, kron_matmul(scaled.to(core.dtype), network.in_factors)
    )


@full_float32()
def contract(network: TensorNetwork) -> Tensor:
    """Contract the network to its weight update (Eq. 5 and 6).

    Args:
        network: The network; gradients flow to its scaling vectors.

    Returns:
        `DeltaW` of shape `(out_features, in_features)`, in the wider dtype of core and vectors.
    """
    dtype = torch.promote_types(network.core.dtype, network.vectors[0].dtype)
    wide = network.cast(dtype)
    return build_delta_weight(wide, *wide.diagonals())
