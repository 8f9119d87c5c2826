"""The update against Eq. 5 written out, tensorly, and the Kronecker form."""

import functools
import itertools
import math

import pytest
import tensorly
import torch
from hypothesis import given
from hypothesis import strategies as st

from tera_pl.tensor import TensorNetwork, contract
from tera_pl.tensor.network import kron_matmul, kron_matmul_left
from tests.tensor.conftest import make_network

tensorly.set_backend("pytorch")


def equation_5(network):
    """Sum over all ranks, index by index."""
    modes = [factor.shape[1] for factor in network.factors]
    update = torch.zeros(modes, dtype=torch.float64)
    for index in itertools.product(*map(range, modes)):
        for ranks in itertools.product(*map(range, network.core.shape)):
            term = network.core[ranks]
            for mode, (r, i) in enumerate(zip(ranks, index, strict=True)):
                term = term * network.vectors[mode][r] * network.factors[mode][r, i]
            update[index] += term
    rows = math.prod(modes[: network.out_order])
    return network.scaling * update.reshape(rows, -1)


@torch.no_grad()
def test_contraction_is_equation_5(network):
    torch.testing.assert_close(contract(network), equation_5(network), rtol=0, atol=1e-10)


@torch.no_grad()
def test_contraction_is_tensorly_tucker(network):
    scaled = [(f * v.unsqueeze(1)).T for f, v in zip(network.factors, network.vectors, strict=True)]
    tucker = tensorly.tucker_to_tensor((network.core, scaled)) * network.scaling
    expected = tucker.reshape(network.out_features, network.in_features)
    torch.testing.assert_close(contract(network), expected, rtol=0, atol=1e-10)


@torch.no_grad()
def test_contraction_is_the_kronecker_form(network):
    k = network.out_order
    left = functools.reduce(torch.kron, network.factors[:k]).T
    right = functools.reduce(torch.kron, network.factors[k:])
    out_diagonal = torch.diag(functools.reduce(torch.kron, network.vectors[:k]))
    in_diagonal = torch.diag(functools.reduce(torch.kron, network.vectors[k:]))
    core = network.core.reshape(left.shape[1], right.shape[0])
    expected = network.scaling * left @ out_diagonal @ core @ in_diagonal @ right
    torch.testing.assert_close(contract(network), expected, rtol=0, atol=1e-10)


def test_zero_vector_gives_zero_and_has_the_only_gradient(network):
    vectors = [vector.detach().clone() for vector in network.vectors]
    vectors[-1].zero_()
    vectors = [vector.requires_grad_() for vector in vectors]
    fresh = TensorNetwork(network.core, network.factors, vectors, network.out_order)
    update = contract(fresh)
    assert not update.any()
    gradients = torch.autograd.grad(update.square().sum() + update.sum(), vectors)
    assert [bool(g.any()) for g in gradients] == [False] * (len(vectors) - 1) + [True]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_contraction_keeps_the_widest_type(dtype):
    network = make_network("out_split", torch.bfloat16)
    vectors = [vector.to(dtype) for vector in network.vectors]
    assert contract(TensorNetwork(network.core, network.factors, vectors, 2)).dtype == dtype


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"factors": []}, "core has 3 modes, but there are 0 factors and 3 vectors"),
        ({"out_order": 0}, "out_order is 0: expected 1 to 2"),
        ({"out_order": 3}, "out_order is 3: expected 1 to 2"),
        (
            {"vectors": [torch.ones(2), torch.ones(4), torch.ones(7)]},
            r"mode 1 has rank 3: expected .* a vector of shape \(3,\), got \(3, 3\) and \(4,\)",
        ),
    ],
)
def test_shapes_that_disagree_are_refused(change, message):
    network = make_network("out_split")
    parts = {"core": network.core, "factors": network.factors, "vectors": network.vectors}
    with pytest.raises(ValueError, match=message):
        TensorNetwork(**(parts | {"out_order": 2} | change))


@given(
    st.lists(
        st.tuples(st.integers(1, 6), st.integers(1, 6), st.booleans()), min_size=1, max_size=4
    ),
    st.integers(0, 5),
    st.randoms(use_true_random=False),
)
def test_products_mode_by_mode_are_those_with_the_kronecker_product(sizes, count, random):
    generator = torch.Generator().manual_seed(random.randrange(2**32))
    shapes = [(a, a if identity else b) for a, b, identity in sizes]
    dense = [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]
    matrices = []
    for index, (a, _, identity) in enumerate(sizes):
        dense[index] = torch.eye(a, dtype=torch.float64) if identity else dense[index]
        matrices.append(a if identity else dense[index])
    product = functools.reduce(torch.kron, dense)
    rows = torch.randn(count, len(product), generator=generator, dtype=torch.float64)
    torch.testing.assert_close(kron_matmul(rows, matrices), rows @ product)
    torch.testing.assert_close(kron_matmul_left(matrices, rows.T), product.T @ rows.T)
