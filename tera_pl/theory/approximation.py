"""How well TeRA approximates a weight update, by the number of modes, beside Theorem 3's bound."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tera_pl.tensor import CoreInit, FactorInit, TensorNetwork, draw, network_keys, plan_modes
from tera_pl.theory.fitting import best_fit, random_starts
from tera_pl.theory.theorems import error_bound

SIZE = 64  # rows and columns of the weight update
ORDERS = (1, 2, 3, 6)  # modes of each of its dimensions
# Of core and factors: the defaults, and those that attain the bound.
INITS: tuple[tuple[CoreInit, FactorInit], ...] = (
    ("normal", "normal"),
    ("rademacher", "orthogonal"),
)


@dataclass(frozen=True)
class Approximation:
    """The best approximation of a weight update that was found.

    Args:
        target: Name of the weight update.
        inits: Distributions of core and factors.
        order: Number of all modes, N.
        trainable_params: Number of trainable parameters.
        entries: Number of entries of the weight update.
        error: Smallest squared error of several fits, over the squared norm of the weight update.
        bound: Theorem 3 with the square of `g_max` and spectral norms.
    """

    target: str
    inits: tuple[str, str]
    order: int
    trainable_params: int
    entries: int
    error: float
    bound: float


def approximate_all() -> list[Approximation]:
    """Approximate every target with every initialization and order."""
    found = targets()
    return [
        approximate(order, target, name, inits)
        for inits in INITS
        for name, target in found.items()
        for order in ORDERS
    ]


def targets() -> Mapping[str, Tensor]:
    """Draw weight updates of full rank and of rank 4, each of unit norm."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    found = {"full rank": normal(SIZE, SIZE), "rank 4": normal(SIZE, 4) @ normal(4, SIZE)}
    return {name: matrix / matrix.norm() for name, matrix in found.items()}


def approximate(
    modes: int, target: Tensor, name: str, inits: tuple[CoreInit, FactorInit]
) -> Approximation:
    """Fit the scaling vectors of a network to a weight update.

    Args:
        modes: Number of modes of each dimension.
        target: The weight update, of shape `(SIZE, SIZE)`.
        name: Its name.
        inits: Distributions of core and factors.

    Returns:
        The best of several fits.
    """
    sizes = plan_modes(SIZE, modes)
    ranks = (*sizes, *sizes)
    core, factors = network_keys(sizes, sizes, ranks, 0, *inits)
    starts = random_starts(ranks, 4)
    network = TensorNetwork(draw(core), [draw(f) for f in factors], starts[0], len(sizes))
    bound = error_bound(network, target)
    if bound.nearest is not None:
        starts.append(list(bound.nearest))
    fit = best_fit(network, target, starts)
    return Approximation(
        target=name,
        inits=inits,
        order=len(ranks),
        trainable_params=sum(ranks),
        entries=target.numel(),
        error=fit.error,
        bound=bound.tight,
    )
