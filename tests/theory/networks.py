"""Random tensor networks, and their update written out as one sum over all indices."""

import string

import torch
from hypothesis import strategies as st

from tera_pl.tensor import TensorNetwork


def random_network(modes, ranks, out_order, seed, scaling=1.0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return TensorNetwork(
        normal(*ranks),
        [normal(rank, size) for rank, size in zip(ranks, modes, strict=True)],
        [normal(rank) for rank in ranks],
        out_order,
        scaling,
    )


def dense_update(network):
    """Eq. 5 of the paper, as it stands."""
    n = network.core.ndim
    inner, outer = string.ascii_lowercase[:n], string.ascii_uppercase[:n]
    terms = [inner, *inner, *(r + i for r, i in zip(inner, outer, strict=True))]
    tensor = torch.einsum(
        f"{','.join(terms)}->{outer}", network.core, *network.vectors, *network.factors
    )
    return network.scaling * tensor.reshape(network.out_features, network.in_features)


@st.composite
def networks(draw, max_modes=4, max_size=4):
    number = draw(st.integers(2, max_modes))
    sizes = st.lists(st.integers(1, max_size), min_size=number, max_size=number)
    return random_network(
        draw(sizes),
        draw(sizes),
        draw(st.integers(1, number - 1)),
        draw(st.integers(0, 2**32)),
        draw(st.sampled_from([1.0, 0.25, -2.0])),
    )
