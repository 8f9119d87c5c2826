"""The paper's theorems against dense matrices, enumeration, and errors that are reached."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tera_pl.tensor import TensorNetwork
from tera_pl.theory.fitting import fit_vectors
from tera_pl.theory.theorems import (
    error_bound,
    factorizations,
    full_rank_counts,
    generic_rank,
    rank_bound,
)
from tests.soak import more
from tests.theory.networks import dense_update, networks, random_network


@settings(max_examples=more(100))
@given(network=networks(), zeros=st.data())
def test_theorem_1_bound_and_rank_of_random_networks(network, zeros):
    vectors = []
    for vector in network.vectors:
        keep = zeros.draw(st.lists(st.booleans(), min_size=len(vector), max_size=len(vector)))
        vectors.append(vector * torch.tensor(keep))
    network = replace(network, vectors=vectors)
    found = np.linalg.matrix_rank(dense_update(network).numpy(), tol=1e-9)
    assert found <= rank_bound(network.ranks, network.out_order)
    assert found == generic_rank(network)


def test_one_zero_in_a_vector_of_two_costs_half_the_rank():
    network = random_network((2, 8, 16), (2, 8, 16), 2, seed=0)
    assert generic_rank(network) == np.linalg.matrix_rank(dense_update(network).numpy()) == 16
    for mode, rank in ((0, 8), (1, 14), (2, 15)):
        vectors = [vector.clone() for vector in network.vectors]
        vectors[mode][0] = 0
        broken = replace(network, vectors=vectors)
        assert generic_rank(broken) == rank
        assert np.linalg.matrix_rank(dense_update(broken).numpy()) == rank


@pytest.mark.parametrize("size", [2, 7, 12, 64, 120])
def test_factorizations_are_all_there(size):
    divisors = [d for d in range(2, size + 1) if size % d == 0]
    expected = {
        combination
        for number in range(1, size.bit_length() + 1)
        for combination in itertools.combinations_with_replacement(divisors, number)
        if math.prod(combination) == size
    }
    found = list(factorizations(size))
    assert len(found) == len(set(found))
    assert set(found) == expected


def test_theorem_2_counts_of_the_paper():
    counts = full_rank_counts(4096, 4096)
    assert (counts.tera_fewest, counts.tera_most) == (48, 8192)
    assert (counts.hira, counts.vera) == (8192, 8192)
    assert counts.lora == 8192 * 4096
    # Wider than high, VeRA needs no more rank than there are rows.
    assert full_rank_counts(1024, 4096).vera == 2048


@given(st.integers(2, 400), st.integers(2, 400))
def test_theorem_2_for_every_factorization(rows, columns):
    counts = full_rank_counts(rows, columns)
    sums = [sum(a) + sum(b) for a in factorizations(rows) for b in factorizations(columns)]
    assert (min(sums), max(sums)) == (counts.tera_fewest, counts.tera_most)
    assert counts.tera_most == counts.hira <= counts.lora


@settings(max_examples=more(40))
@given(network=networks(max_modes=4, max_size=3), seed=st.integers(0, 2**32))
def test_theorem_3_bounds_what_fitting_reaches(network, seed):
    generator = torch.Generator().manual_seed(seed)
    shape = (network.out_features, network.in_features)
    target = torch.randn(*shape, generator=generator, dtype=torch.float64)
    assume(network.core.abs().min() > 1e-3)
    bound = error_bound(network, target)
    assert bound.tight <= bound.squared * (1 + 1e-9)
    # The proof's vectors; fitting can only do better.
    start = [vector / abs(network.scaling) ** (1 / len(bound.nearest)) for vector in bound.nearest]
    start[0] = start[0] * math.copysign(1, network.scaling)
    reached = fit_vectors(replace(network, vectors=start), target, max_sweeps=20)
    slack = 1e-7 * target.square().sum().item()
    assert reached.errors[0] <= bound.tight + slack
    assert bound.outside - slack <= reached.error <= bound.tight + slack


def test_theorem_3_as_printed_is_no_bound():
    # A core of one value c: the smallest error is that of the best matrix of rank one, whatever c.
    target = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    eye = torch.eye(2, dtype=torch.float64)
    ones = [torch.ones(2, dtype=torch.float64)] * 2
    network = TensorNetwork(torch.full((2, 2), 100.0, dtype=torch.float64), [eye, eye], ones, 1)
    bound = error_bound(network, target)
    reached = fit_vectors(network, target, max_sweeps=2000, tolerance=0.0).error
    # sigma_2^2 = 1 (Eckart, Young and Mirsky).
    assert reached == pytest.approx(1.0, rel=1e-6)
    assert bound.printed == pytest.approx(100 * 1e-4 * 4)
    assert bound.printed < reached <= bound.tight * (1 + 1e-9) < bound.squared


def test_core_with_a_zero_has_no_bound():
    network = random_network((2, 3), (2, 3), 1, seed=0)
    network.core[0, 0] = 0.0
    assert error_bound(network, torch.ones(2, 3)).squared == math.inf
