"""Alternating least squares against dense least squares, singular values and tensorly."""

import numpy as np
import pytest
import tensorly
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tensorly.decomposition import parafac

from tera_pl.tensor import TensorNetwork
from tera_pl.theory.fitting import best_fit, best_rank_one, fit_vectors, random_starts
from tests.soak import more
from tests.theory.networks import dense_update, networks, random_network


def replaced(network, vectors):
    return TensorNetwork(network.core, network.factors, vectors, network.out_order, network.scaling)


def distance(network, vectors, target):
    return (target - dense_update(replaced(network, vectors))).square().sum().item()


@settings(max_examples=more(40))
@given(network=networks(), seed=st.integers(0, 2**32))
# Normal equations let the error of these grow, by up to 4e-9 of the scale.
@example(network=random_network((1, 3, 1, 4), (4, 2, 1, 2), 2, seed=0), seed=0)
@example(network=random_network((1, 3, 1, 4), (2, 1, 4, 4), 2, seed=0, scaling=-2.0), seed=4)
def test_error_is_that_of_the_dense_update_and_never_grows(network, seed):
    generator = torch.Generator().manual_seed(seed)
    shape = (network.out_features, network.in_features)
    target = torch.randn(*shape, generator=generator, dtype=torch.float64)
    norm = target.square().sum().item()
    fit = fit_vectors(network, target, max_sweeps=4, tolerance=0.0)
    scale = max(norm, fit.errors[0])
    assert fit.errors[0] == pytest.approx(
        distance(network, network.vectors, target), abs=1e-10 * scale
    )
    assert fit.error == pytest.approx(distance(network, fit.vectors, target), abs=1e-8 * norm)
    steps = np.diff(fit.errors)
    assert (steps <= 1e-13 * scale).all()


@settings(max_examples=more(20))
@given(network=networks())
def test_one_step_is_the_dense_least_squares_solution(network):
    # With one mode left to move, the minimum over it is a linear problem that numpy solves.
    generator = torch.Generator().manual_seed(0)
    shape = (network.out_features, network.in_features)
    target = torch.randn(*shape, generator=generator, dtype=torch.float64)
    last = network.core.ndim - 1
    fit = fit_vectors(network, target, max_sweeps=1, tolerance=0.0)
    columns = []
    for entry in torch.eye(network.ranks[last], dtype=torch.float64):
        vectors = [*fit.vectors[:last], entry]
        columns.append(dense_update(replaced(network, vectors)).flatten().numpy())
    basis = np.stack(columns, 1)
    solution = np.linalg.lstsq(basis, target.flatten().numpy(), rcond=None)[0]
    expected = np.square(target.flatten().numpy() - basis @ solution).sum()
    assert fit.error == pytest.approx(expected, abs=1e-8 * target.square().sum().item())


def test_an_update_of_the_network_itself_is_found_again():
    network = random_network((3, 4, 2, 5), (3, 4, 2, 5), 2, seed=1)
    target = dense_update(network)
    starts = random_starts(network.ranks, 12)
    fit = best_fit(network, target, starts, sweeps=500)
    norm = target.square().sum().item()
    assert distance(network, fit.vectors, target) < 1e-3 * norm


def test_identity_factors_and_a_core_of_ones_make_the_best_rank_one_matrix():
    generator = torch.Generator().manual_seed(2)
    target = torch.randn(6, 9, generator=generator, dtype=torch.float64)
    eye = [torch.eye(size, dtype=torch.float64) for size in (6, 9)]
    ones = torch.ones(6, 9, dtype=torch.float64)
    network = TensorNetwork(ones, eye, random_starts((6, 9), 1)[0], 1)
    fit = fit_vectors(network, target, max_sweeps=2000, tolerance=1e-14)
    values = np.linalg.svd(target.numpy(), compute_uv=False)
    assert fit.error == pytest.approx(np.square(values[1:]).sum(), rel=1e-8)


def test_best_rank_one_is_at_least_as_near_as_tensorlys():
    generator = torch.Generator().manual_seed(3)
    tensor = torch.randn(4, 5, 6, generator=generator, dtype=torch.float64)
    vectors, residual = best_rank_one(tensor, 1, starts=8)
    outer = torch.einsum("a,b,c->abc", *vectors)
    assert residual == pytest.approx((tensor - outer).square().sum().item(), rel=1e-9)
    with tensorly.backend_context("numpy"):
        theirs = parafac(tensor.numpy(), 1, n_iter_max=500, init="svd", tol=1e-12)
        other = np.square(tensor.numpy() - tensorly.cp_to_tensor(theirs)).sum()
    assert residual <= other * (1 + 1e-6)


def test_target_of_another_shape_is_an_error():
    network = random_network((2, 3), (2, 3), 1, seed=0)
    with pytest.raises(ValueError, match=r"target has shape \(3, 2\): expected \(2, 3\)"):
        fit_vectors(network, torch.zeros(3, 2))
