"""Layers of one input share its projection, and nothing else does."""

import copy
import pickle
import weakref

import pytest
import torch

from tera_pl.tensor import (
    SharedProjections,
    apply,
    contract,
    projection,
)
from tests.tensor.conftest import PATHS, make_network, saved_bytes, share_factors, tensors


@pytest.fixture
def computed(monkeypatch):
    """Shapes of the inputs for which `M x` was computed."""
    shapes = []
    plain = projection._Projection.forward

    def forward(ctx, inputs, network):
        shapes.append(inputs.shape)
        return plain(ctx, inputs, network)

    monkeypatch.setattr(projection._Projection, "forward", staticmethod(forward))
    return shapes


@pytest.mark.parametrize("compute", PATHS[:2])
@pytest.mark.parametrize("shape", ["out_split", "both_split", "kronecker", "some_of_each"])
def test_layers_of_one_input_share_its_projection(compute, shape, computed):
    query = make_network(shape)
    value = share_factors(query, make_network(shape, seed=5))
    leaf, _, _ = tensors(query, rows=2)
    inputs = leaf * 2
    variables = [leaf, *query.vectors, *value.vectors]
    by_equation = (inputs @ contract(query).T).sin() + (inputs @ contract(value).T).cos()
    expected = torch.autograd.grad(by_equation.sum(), variables, retain_graph=True)
    shared = SharedProjections()
    ours = apply(query, inputs, compute, shared).sin() + apply(value, inputs, compute, shared).cos()
    found = torch.autograd.grad(ours.sum(), variables)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert len(computed) == 1


@pytest.mark.parametrize("compute", PATHS[:2])
def test_nothing_is_shared_that_is_not_passed(compute, computed):
    network = make_network("out_split")
    inputs = tensors(network, rows=2)[0] * 2
    outputs = apply(network, inputs, compute) + apply(network, inputs, compute)
    outputs.sum().backward()
    assert len(computed) == 2


def test_a_projection_is_shared_by_nothing_else(computed):
    network, other = make_network("out_split"), make_network("out_split", seed=5)
    inputs = tensors(network)[0] * 2
    results, shared = [], SharedProjections()

    def check(network, inputs, number):
        results.append(apply(network, inputs, "factored", shared))
        torch.testing.assert_close(results[-1], inputs @ contract(network).T)
        assert len(computed) == number

    check(network, inputs, 1)
    check(network, inputs, 1)
    check(other, inputs, 2)  # other factors
    check(network, inputs * 1, 3)  # another input
    with torch.no_grad():
        check(network, inputs, 4)  # no gradient
        inputs += 1
    check(network, inputs, 5)  # other values in the same place
    plain = inputs.detach()
    check(network, plain, 6)
    check(network, plain.requires_grad_(), 7)  # a gradient, which it did not need before
    assert results[-1].requires_grad


def test_auto_takes_what_is_projected_already(computed):
    # Alone, so many rows would pay for building the update; what is left to do costs less.
    network = make_network("out_split")
    value = share_factors(network, make_network("out_split", seed=5))
    inputs = tensors(network, rows=7)[0] * 2
    shared = SharedProjections()
    apply(value, inputs, "auto", shared)
    assert not computed
    apply(network, inputs, "factored", shared)
    apply(value, inputs, "auto", shared)
    assert len(computed) == 1
    saved, _ = saved_bytes(lambda: apply(value, inputs, "auto", shared))
    assert inputs.untyped_storage().data_ptr() not in saved


def test_a_projection_does_not_outlive_its_input():
    network, shared = make_network("out_split"), SharedProjections()
    leaf, _, _ = tensors(network)
    inputs = leaf * 2
    apply(network, inputs, "factored", shared)
    kept = weakref.ref(shared.find(network, inputs))
    assert kept() is not None
    # The graph of a leaf's projection would keep the leaf alive.
    apply(network, leaf, "factored", shared)
    assert shared.find(network, leaf) is None
    assert shared.find(network, inputs) is kept()
    del inputs
    assert kept() is None
    alive = weakref.ref(leaf)
    del leaf
    assert alive() is None


def test_another_input_drops_the_projection_of_the_last():
    network, shared = make_network("out_split"), SharedProjections()
    inputs = tensors(network)[0] * 2
    apply(network, inputs, "factored", shared)
    apply(network, inputs * 1, "factored", shared)
    assert shared.find(network, inputs) is None


def test_a_thread_never_finds_the_projection_of_another(monkeypatch):
    network, shared = make_network("out_split"), SharedProjections()
    inputs = tensors(network)[0] * 2
    other = inputs * 3
    apply(network, inputs, "factored", shared)
    expected = shared.find(network, inputs)
    plain = projection._autograd_mode

    def interrupted(tensor):
        """What another thread does in the middle of `find`."""
        monkeypatch.setattr(projection, "_autograd_mode", plain)
        apply(network, other, "factored", shared)
        return plain(tensor)

    monkeypatch.setattr(projection, "_autograd_mode", interrupted)
    assert shared.find(network, inputs) is expected
    assert shared.find(network, other) is not None


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_of_shared_projections_start_empty(copied):
    network, shared = make_network("out_split"), SharedProjections()
    inputs = tensors(network)[0] * 2
    apply(network, inputs, "factored", shared)
    first, second = copied([shared, shared])
    assert first is second
    assert first.find(network, inputs) is None
