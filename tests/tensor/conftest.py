"""Networks of unequal sizes, so that a swapped mode cannot pass."""

from dataclasses import replace
from functools import reduce

import pytest
import torch

from tera_pl.tensor import TensorNetwork

# modes, ranks, out_order: order 2 to 5, every kind of split, ranks below and equal to the sizes.
SHAPES = {
    "matrix": ((3, 5), (3, 5), 1),
    "matrix_low_rank": ((3, 5), (2, 4), 1),
    "out_split": ((2, 3, 7), (2, 3, 7), 2),
    "in_split": ((7, 2, 3), (7, 2, 3), 1),
    "both_split": ((2, 3, 5, 4), (2, 2, 3, 4), 2),
    "five_modes": ((3, 2, 4, 2, 3), (2, 2, 3, 1, 3), 3),
    "identity": ((2, 3, 7), (2, 3, 7), 2),
    "kronecker": ((2, 3, 20), (2, 3, 20), 2),
    "some_of_each": ((2, 3, 20, 2), (2, 3, 20, 1), 2),
    "structured_core": ((4, 3, 20), (4, 3, 15), 2),
}
# Modes whose factor is the product of matrices of these sizes; the identity has none.
PARTS = {
    "identity": {0: [], 1: [], 2: []},
    "kronecker": {2: [4, 5]},
    "some_of_each": {0: [], 2: [5, 4]},
}
# Sizes of the matrices whose product the unfolded core is.
CORE_PARTS = {"structured_core": [(3, 5), (4, 3)]}


def make_network(shape, dtype=torch.float64, scaling=0.7, seed=0):
    modes, ranks, out_order = SHAPES[shape]
    generator = torch.Generator().manual_seed(seed)

    def draw(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64).to(dtype)

    factors = [draw(rank, mode) for rank, mode in zip(ranks, modes, strict=True)]
    wide = torch.promote_types(dtype, torch.float32)
    vectors = [draw(rank).to(wide).requires_grad_() for rank in ranks]
    parts = {}
    for mode, sizes in PARTS.get(shape, {}).items():
        parts[mode] = [draw(size, size) for size in sizes]
        factors[mode] = reduce(torch.kron, parts[mode], torch.ones(1, 1, dtype=dtype))
        if not sizes:
            factors[mode] = torch.eye(modes[mode], dtype=dtype)
    core = draw(*ranks)
    core_parts = [draw(*size) for size in CORE_PARTS.get(shape, [])]
    if core_parts:
        core = reduce(torch.kron, core_parts).reshape(ranks)
    return TensorNetwork(core, factors, vectors, out_order, scaling, parts, core_parts)


@pytest.fixture(params=SHAPES)
def network(request):
    return make_network(request.param)


PATHS = ["factored", "materialized", "auto"]


def tensors(network, rows=6, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    shapes = [
        (rows, network.in_features),
        (network.out_features, network.in_features),
        (network.out_features,),
    ]
    drawn = [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in shapes]
    return drawn[0].requires_grad_(), drawn[1], drawn[2]


def saved_bytes(function):
    """Bytes of what autograd saves while a function runs, and the result to keep it alive."""
    saved = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = function()
    return saved, result


def share_factors(first, second):
    """The second network with the factors of the first, as layers of one model have them."""
    return replace(second, factors=first.factors, parts=first.parts)
