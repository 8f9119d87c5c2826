"""Which of the two ways to use a tensor network is cheaper."""

import math
from collections.abc import Collection, Sequence
from typing import Literal

Compute = Literal["auto", "factored", "materialised"]

# Multiply-adds in the time that a number takes to memory and back: a product with a small matrix
# waits for its rows, not for their products. Measured on a CPU; an accelerator has more, see
# docs/benchmarks.md, "Structured frozen tensors".
MOVE = 64


def kron_cost(sizes: Sequence[int], ranks: Sequence[int], identity: Collection[int] = ()) -> int:
    """Cost of one row times a Kronecker product, applied mode by mode, in multiply-adds.

    Each mode costs its multiply-adds, and `MOVE` for each number of its result.

    Args:
        sizes: Sizes `a_i` of the row's modes.
        ranks: Sizes `b_i` they become, in the same order.
        identity: Positions of the modes whose matrix is the identity, which cost nothing.

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
        cost += results * (sizes[mode] + MOVE)
    return cost


def factored_cost(
    modes: Sequence[int],
    ranks: Sequence[int],
    out_order: int,
    tokens: int,
    *,
    projected: bool = False,
    identity: Collection[int] = (),
    core_cost: int | None = None,
) -> int:
    """Cost of a forward and backward by way of the activations, in multiply-adds.

    Forward applies M, the core and L; backward goes back through all three.

    Args:
        modes: Sizes of all modes.
        ranks: Ranks of all modes.
        out_order: Number of out modes.
        tokens: Number of rows of the input.
        projected: Whether another layer applies M to the same input, which serves this one too.
        identity: Modes whose factor is the identity.
        core_cost: Cost of the core per row, if it has a structure.

    Returns:
        The cost, in multiply-adds, on top of the frozen layer.
    """
    cost_in, dense_core, cost_out = _costs(modes, ranks, out_order, identity)
    cost_core = dense_core if core_cost is None else core_cost
    return tokens * ((0 if projected else 2 * cost_in) + 2 * cost_core + 2 * cost_out)


def materialised_cost(
    modes: Sequence[int],
    ranks: Sequence[int],
    out_order: int,
    tokens: int,
    *,
    fused: bool,
    identity: Collection[int] = (),
) -> int:
    """Cost of a forward and backward by way of the update itself, in multiply-adds.

    Forward builds the update; backward builds it again, unless it is kept, and forms the gradient
    of the core. Where the update cannot be added to the frozen weight (`fused` is false) it is
    also multiplied with the input and with the gradient.

    Args:
        modes: Sizes of all modes.
        ranks: Ranks of all modes.
        out_order: Number of out modes.
        tokens: Number of rows of the input.
        fused: Whether one product with the sum of weight and update replaces the layer's own.
        identity: Modes whose factor is the identity.

    Returns:
        The cost, in multiply-adds, on top of the frozen layer.
    """
    out_features, in_features = math.prod(modes[:out_order]), math.prod(modes[out_order:])
    cost_in, _, cost_out = _costs(modes, ranks, out_order, identity)
    build = math.prod(ranks[:out_order]) * cost_in + in_features * cost_out
    gradient = min(core_gradient_costs(modes, ranks, out_order, tokens, identity))
    times = 1 if keeps_update(out_features, tokens) else 2
    return times * build + gradient + (0 if fused else 2 * tokens * out_features * in_features)


def keeps_update(out_features: int, tokens: int) -> bool:
    """Whether a built update is kept until backward: if it is no larger than the layer's input.

    Args:
        out_features: Number of rows of the update.
        tokens: Number of rows of the input, which are as long.

    Returns:
        Whether it is kept. Else it is built again.
    """
    return out_features <= tokens


def core_gradient_costs(
    modes: Sequence[int],
    ranks: Sequence[int],
    out_order: int,
    tokens: int,
    identity: Collection[int] = (),
) -> tuple[int, int]:
    """Cost of both ways from input `x` and gradient `g` to that of the core.

    Args:
        modes: Sizes of all modes.
        ranks: Ranks of all modes.
        out_order: Number of out modes.
        tokens: Number of rows of the input.
        identity: Modes whose factor is the identity.

    Returns:
        The costs of `L^T (g^T x) M^T` and of `(g L)^T (x M^T)`.
    """
    out_features, in_features = math.prod(modes[:out_order]), math.prod(modes[out_order:])
    cost_in, cost_core, cost_out = _costs(modes, ranks, out_order, identity)
    weight_first = tokens * out_features * in_features
    weight_first += out_features * cost_in + math.prod(ranks[out_order:]) * cost_out
    return weight_first, tokens * (cost_in + cost_out + cost_core)


def choose_compute(
    modes: Sequence[int],
    ranks: Sequence[int],
    out_order: int,
    tokens: int,
    *,
    fused: bool,
    projected: bool = False,
    identity: Collection[int] = (),
    core_cost: int | None = None,
) -> Literal["factored", "materialised"]:
    """Pick the cheaper way for forward and backward together.

    Args:
        modes: Sizes of all modes.
        ranks: Ranks of all modes.
        out_order: Number of out modes.
        tokens: Number of rows of the input.
        fused: As in `materialised_cost`.
        projected: As in `factored_cost`.
        identity: Modes whose factor is the identity.
        core_cost: As in `factored_cost`.

    Returns:
        The cheaper way; `factored`, which needs less memory, if they cost the same.

    Example:
        A 4096 x 4096 layer with one side split in 64 x 64: few tokens go through the factors.

        >>> shape = dict(modes=[64, 64, 4096], ranks=[64, 64, 4096], out_order=2, fused=True)
        >>> choose_compute(tokens=1024, **shape), choose_compute(tokens=8192, **shape)
        ('factored', 'materialised')
    """
    factored = factored_cost(
        modes,
        ranks,
        out_order,
        tokens,
        projected=projected,
        identity=identity,
        core_cost=core_cost,
    )
    materialised = materialised_cost(
        modes, ranks, out_order, tokens, fused=fused, identity=identity
    )
    return "factored" if factored <= materialised else "materialised"


def _costs(
    modes: Sequence[int], ranks: Sequence[int], out_order: int, identity: Collection[int]
) -> tuple[int, int, int]:
    """Cost per token of M, of the core and of L."""
    out_identity = [mode for mode in identity if mode < out_order]
    in_identity = [mode - out_order for mode in identity if mode >= out_order]
    cost_in = kron_cost(modes[out_order:], ranks[out_order:], in_identity)
    cost_out = kron_cost(ranks[:out_order], modes[:out_order], out_identity)
    return cost_in, math.prod(ranks), cost_out
