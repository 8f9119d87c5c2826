"""Which of the two paths of applying a tensor network is cheaper."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

Compute = Literal["auto", "factored", "materialized"]

# Multiply-adds in the time in which a value moves to memory and back: a product with a small matrix
# is bound by memory, not by arithmetic. Measured on a CPU in float32; an accelerator has more, see
# docs/benchmarks.md, "Structured frozen tensors".
MOVE = 64
# 16-bit products are about 2.5 times as fast where a processor has units for them; memory is not.
MOVE_16_BITS = 160


@dataclass(frozen=True)
class NetworkShape:
    """Sizes of the matrices that the products with a tensor network go through.

    Costs are in multiply-adds, of forward and backward together, in addition to the frozen layer.

    Args:
        modes: Sizes of all modes; a factor that is a Kronecker product counts as several modes.
        ranks: Ranks of all modes.
        out_order: Number of out modes.
        identity: Indices of the modes whose factor is the identity, which cost nothing.
        core: Shapes of the matrices that a product with the unfolded core goes through; if empty,
            it counts as one product that is not bound by memory.
        bits: Bits of a value in the dtype of the products.
    """

    modes: tuple[int, ...]
    ranks: tuple[int, ...]
    out_order: int
    identity: frozenset[int] = frozenset()
    core: tuple[tuple[int, int], ...] = ()
    bits: int = 32

    @property
    def out_features(self) -> int:
        """Product of the out modes."""
        return math.prod(self.modes[: self.out_order])

    @property
    def in_features(self) -> int:
        """Product of the in modes."""
        return math.prod(self.modes[self.out_order :])

    def factored_cost(self, tokens: int, *, projected: bool = False) -> int:
        """Cost of the factored path.

        Forward applies M, the core and L; backward applies the transposes of all three.

        Args:
            tokens: Number of tokens.
            projected: Whether another layer has applied M to the same input.

        Returns:
            The cost.
        """
        cost_in, cost_core, cost_out = self._costs()
        if self.core:
            rows, columns = zip(*self.core, strict=True)
            cost_core = kron_cost(columns, rows, move=self._move)
        return tokens * ((0 if projected else 2 * cost_in) + 2 * cost_core + 2 * cost_out)

    def materialized_cost(self, tokens: int, *, fused: bool, recompute: bool = False) -> int:
        """Cost of the materialized path.

        Forward builds the weight update; backward builds it again, unless it was saved, and forms
        the gradient of the core. Where the weight update cannot be added to the frozen weight
        (`fused` is false), it is also multiplied by the input and by the gradient.

        Args:
            tokens: Number of tokens.
            fused: Whether one product with the sum of both weights replaces the frozen layer's.
            recompute: Whether backward builds the weight update again.

        Returns:
            The cost.
        """
        cost_in, _, cost_out = self._costs()
        build = math.prod(self.ranks[: self.out_order]) * cost_in + self.in_features * cost_out
        times = 1 if not recompute and saves_delta_weight(self.out_features, tokens) else 2
        products = 0 if fused else 2 * tokens * self.out_features * self.in_features
        return times * build + min(self.core_gradient_costs(tokens)) + products

    def core_gradient_costs(self, tokens: int) -> tuple[int, int]:
        """Cost of both ways to compute the gradient of the core from input `x` and gradient `g`.

        Args:
            tokens: Number of tokens.

        Returns:
            The costs of `L^T (g^T x) M^T` and of `(g L)^T (x M^T)`.
        """
        cost_in, cost_core, cost_out = self._costs()
        weight_first = tokens * self.out_features * self.in_features
        weight_first += self.out_features * cost_in
        weight_first += math.prod(self.ranks[self.out_order :]) * cost_out
        return weight_first, tokens * (cost_in + cost_out + cost_core)

    @property
    def _move(self) -> int:
        return MOVE if self.bits >= 32 else MOVE_16_BITS

    def _costs(self) -> tuple[int, int, int]:
        """Cost per token of M, of a dense core and of L."""
        split = self.out_order
        out_identity = [mode for mode in self.identity if mode < split]
        in_identity = [mode - split for mode in self.identity if mode >= split]
        cost_in = kron_cost(self.modes[split:], self.ranks[split:], in_identity, self._move)
        cost_out = kron_cost(self.ranks[:split], self.modes[:split], out_identity, self._move)
        return cost_in, math.prod(self.ranks), cost_out


def kron_cost(
    sizes: Sequence[int], ranks: Sequence[int], identity: Collection[int] = (), move: int = MOVE
) -> int:
    """Cost of one row times a Kronecker product, applied mode by mode, in multiply-adds.

    Each mode costs its multiply-adds, and `move` for each value of its result.

    Args:
        sizes: Sizes `a_i` of the row's modes.
        ranks: Sizes `b_i` they become, in the same order.
        identity: Indices of the modes whose matrix is the identity, which cost nothing.
        move: Multiply-adds in the time in which a value moves to memory and back.

    Returns:
        The cost per row.

    Example:
        An unsplit dimension is one dense product; a tensorized one costs little.

        >>> kron_cost([4096], [4096]), kron_cost([64, 64], [64, 64])
        (17039360, 1048576)
    """
    cost = 0
    for mode in set(range(len(sizes))) - set(identity):
        results = math.prod(ranks[: mode + 1]) * math.prod(sizes[mode + 1 :])
        cost += results * (sizes[mode] + move)
    return cost


def saves_delta_weight(out_features: int, tokens: int) -> bool:
    """Whether a built weight update is saved for backward: if it is no larger than the input.

    Args:
        out_features: Number of rows of the weight update.
        tokens: Number of tokens, each as long as a row.

    Returns:
        Whether it is saved; otherwise backward builds it again.
    """
    return out_features <= tokens


@lru_cache(maxsize=4096)  # called by every layer in every step, for few shapes
def choose_compute(
    shape: NetworkShape,
    tokens: int,
    *,
    fused: bool,
    projected: bool = False,
    recompute: bool = False,
) -> Literal["factored", "materialized"]:
    """Choose the cheaper path for forward and backward together.

    Args:
        shape: Sizes of the network.
        tokens: Number of tokens.
        fused: As in `NetworkShape.materialized_cost`.
        projected: As in `NetworkShape.factored_cost`.
        recompute: As in `NetworkShape.materialized_cost`.

    Returns:
        The cheaper path; `factored`, which needs less memory, if they cost the same.

    Example:
        A 4096 x 4096 layer with one dimension of modes 64 x 64: few tokens take the factored path.

        >>> shape = NetworkShape(modes=(64, 64, 4096), ranks=(64, 64, 4096), out_order=2)
        >>> [choose_compute(shape, tokens, fused=True) for tokens in (1024, 8192)]
        ['factored', 'materialized']
    """
    factored = shape.factored_cost(tokens, projected=projected)
    materialized = shape.materialized_cost(tokens, fused=fused, recompute=recompute)
    return "factored" if factored <= materialized else "materialized"


@lru_cache(maxsize=4096)
def weight_gradient_first(shape: NetworkShape, tokens: int) -> bool:
    """Whether `L^T (g^T x) M^T` is the cheaper way to compute the gradient of the core.

    Args:
        shape: Sizes of the network.
        tokens: Number of tokens.

    Returns:
        True for `L^T (g^T x) M^T`, false for `(g L)^T (x M^T)`.
    """
    weight_first, rows_first = shape.core_gradient_costs(tokens)
    return weight_first < rows_first
