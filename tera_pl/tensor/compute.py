"""Which of the two ways to use a tensor network is cheaper."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

Compute = Literal["auto", "factored", "materialized"]

# Multiply-adds in the time that a value takes to memory and back: a product with a small matrix
# waits for its rows, not for their products. Measured on a CPU in float32; an accelerator has more,
# see docs/benchmarks.md, "Structured frozen tensors".
MOVE = 64
# 16-bit products are about 2.5 times as fast where a processor has units for them, memory is not.
MOVE_16_BITS = 160


@dataclass(frozen=True)
class NetworkShape:
    """Sizes of the matrices that the products with a tensor network go through.

    Costs are in multiply-adds, of forward and backward together, on top of the frozen layer.

    Args:
        modes: Sizes of all modes; a factor that is a Kronecker product counts as several modes.
        ranks: Ranks of all modes.
        out_order: Number of out modes.
        identity: Positions of the modes whose factor is the identity, which cost nothing.
        core: Shapes of the matrices that a product with the unfolded core goes through; counted as
            one product that does not wait for memory if not given.
        bits: Of a value in the type of the products.
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
        """Cost by way of the activations.

        Forward applies M, the core and L; backward goes back through all three.

        Args:
            tokens: Number of rows of the input.
            projected: Whether another layer applies M to the same input, which serves this one too.

        Returns:
            The cost.
        """
        cost_in, cost_core, cost_out = self._costs()
        if self.core:
            rows, columns = zip(*self.core, strict=True)
            cost_core = kron_cost(columns, rows, move=self._move)
        return tokens * ((0 if projected else 2 * cost_in) + 2 * cost_core + 2 * cost_out)

    def materialized_cost(self, tokens: int, *, fused: bool, recompute: bool = False) -> int:
        """Cost by way of the update itself.

        Forward builds the update; backward builds it again, unless it is kept, and forms the
        gradient of the core. Where the update cannot be added to the frozen weight (`fused` is
        false) it is also multiplied with the input and with the gradient.

        Args:
            tokens: Number of rows of the input.
            fused: Whether one product with the sum of weight and update replaces the layer's own.
            recompute: Whether nothing that was built is kept until backward.

        Returns:
            The cost.
        """
        cost_in, _, cost_out = self._costs()
        build = math.prod(self.ranks[: self.out_order]) * cost_in + self.in_features * cost_out
        times = 1 if not recompute and keeps_delta_weight(self.out_features, tokens) else 2
        products = 0 if fused else 2 * tokens * self.out_features * self.in_features
        return times * build + min(self.core_gradient_costs(tokens)) + products

    def core_gradient_costs(self, tokens: int) -> tuple[int, int]:
        """Cost of both ways from input `x` and gradient `g` to that of the core.

        Args:
            tokens: Number of rows of the input.

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
        identity: Positions of the modes whose matrix is the identity, which cost nothing.
        move: Multiply-adds in the time that a value takes to memory and back.

    Returns:
        The cost per row.

    Example:
        A whole dimension is one dense product; a split one costs little.

        >>> kron_cost([4096], [4096]), kron_cost([64, 64], [64, 64])
        (17039360, 1048576)
    """
    cost = 0
    for mode in set(range(len(sizes))) - set(identity):
        results = math.prod(ranks[: mode + 1]) * math.prod(sizes[mode + 1 :])
        cost += results * (sizes[mode] + move)
    return cost


def keeps_delta_weight(out_features: int, tokens: int) -> bool:
    """Whether a built update is kept until backward: if it is no larger than the layer's input.

    Args:
        out_features: Number of rows of the update.
        tokens: Number of rows of the input, which are as long.

    Returns:
        Whether it is kept. Else it is built again.
    """
    return out_features <= tokens


@lru_cache(maxsize=4096)  # asked by every layer in every step, of few shapes
def choose_compute(
    shape: NetworkShape,
    tokens: int,
    *,
    fused: bool,
    projected: bool = False,
    recompute: bool = False,
) -> Literal["factored", "materialized"]:
    """Pick the cheaper way for forward and backward together.

    Args:
        shape: Sizes of the network.
        tokens: Number of rows of the input.
        fused: As in `NetworkShape.materialized_cost`.
        projected: As in `NetworkShape.factored_cost`.
        recompute: As in `NetworkShape.materialized_cost`.

    Returns:
        The cheaper way; `factored`, which needs less memory, if they cost the same.

    Example:
        A 4096 x 4096 layer with one side split in 64 x 64: few tokens go through the factors.

        >>> shape = NetworkShape(modes=(64, 64, 4096), ranks=(64, 64, 4096), out_order=2)
        >>> [choose_compute(shape, tokens, fused=True) for tokens in (1024, 8192)]
        ['factored', 'materialized']
    """
    factored = shape.factored_cost(tokens, projected=projected)
    materialized = shape.materialized_cost(tokens, fused=fused, recompute=recompute)
    return "factored" if factored <= materialized else "materialized"


@lru_cache(maxsize=4096)
def weight_gradient_first(shape: NetworkShape, tokens: int) -> bool:
    """Whether `L^T (g^T x) M^T` is the cheaper way to the gradient of the core.

    Args:
        shape: Sizes of the network.
        tokens: Number of rows of the input.

    Returns:
        True for that way, false for `(g L)^T (x M^T)`.
    """
    weight_first, rows_first = shape.core_gradient_costs(tokens)
    return weight_first < rows_first
