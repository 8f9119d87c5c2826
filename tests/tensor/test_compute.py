"""Costs by hand, and the choice they lead to."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tera_pl.tensor import NetworkShape, choose_compute
from tera_pl.tensor.compute import MOVE, MOVE_16_BITS, kron_cost

N = 4096
SPLIT = NetworkShape((64, 64, N), (64, 64, N), out_order=2)
SMALL = 2 * (64 + MOVE) * N  # one token through a dimension of 4096 split in 64 x 64
WHOLE = (N + MOVE) * N  # one token through a dense factor


def test_kron_cost_by_hand():
    # (2, 3) -> (5, 7): first 2 -> 5 for each of 3, then 3 -> 7 for each of 5.
    moved = 5 * 3 + 5 * 7
    assert kron_cost([2, 3], [5, 7]) == 5 * 2 * 3 + 5 * 7 * 3 + MOVE * moved


def test_identity_costs_nothing():
    moved = 5 * 12 + 5 * 3 * 7
    expected = 5 * 2 * 12 + 5 * 3 * 7 * 4 + MOVE * moved
    assert kron_cost([2, 3, 4], [5, 3, 7], identity=[1]) == expected
    shape = replace(SPLIT, identity=frozenset([2]))
    assert shape.factored_cost(10) == 10 * (2 * N * N + 2 * SMALL)
    # The gradient of the core is one product, whichever way.
    expected = 2 * N * SMALL + min(10 * N * N + N * SMALL, 10 * (N * N + SMALL))
    assert shape.materialized_cost(10, fused=True) == expected


def test_factored_cost_by_hand():
    assert SPLIT.factored_cost(10) == 10 * (2 * WHOLE + 2 * N * N + 2 * SMALL)


def test_a_projected_input_costs_neither_way():
    expected = 10 * (2 * N * N + 2 * SMALL)
    assert SPLIT.factored_cost(10, projected=True) == expected
    # A narrow layer beside a wide one, as v beside q: T n^2 / 2 against more than that.
    narrow = NetworkShape((32, 32, N), (32, 32, N), out_order=2)
    assert choose_compute(narrow, N, fused=False, projected=True) == "factored"
    assert choose_compute(narrow, N, fused=False) == "materialized"


def test_a_structured_core_costs_what_its_products_do():
    expected = 10 * (2 * WHOLE + 2 * SMALL + 2 * SMALL)
    core = ((64, 64), (64, 64))
    assert replace(SPLIT, core=core).factored_cost(10) == expected
    both = NetworkShape((64,) * 4, (64,) * 4, out_order=2)
    assert choose_compute(replace(both, core=core), 4 * N, fused=True) == "factored"
    assert choose_compute(both, 4 * N, fused=True) == "materialized"
    # Products with matrices of 32 x 32 are as slow as one with a small unsplit core.
    small = NetworkShape((32,) * 4, (32,) * 4, out_order=2, core=((32, 32), (32, 32)))
    assert choose_compute(small, 512, fused=True) == "factored"
    assert choose_compute(small, 8192, fused=True) == "materialized"


def test_small_products_of_16_bits_wait_longer():
    moved = 2 * 24 * 24
    expected = 24 * moved + MOVE_16_BITS * moved
    assert kron_cost([24, 24], [24, 24], move=MOVE_16_BITS) == expected
    # Kronecker factors on SmolLM2's q_proj, 8 x 128 tokens beside a 16-bit weight: by count of
    # products the update takes 3 (with x, with g, g^T x), dense factors take 4 through the factors.
    factors = {"modes": (24, 24, 24, 24), "ranks": (24, 24, 24, 24), "out_order": 2}
    kronecker = NetworkShape(**factors, core=((576, 576),), bits=16)
    assert choose_compute(kronecker, 1024, fused=False) == "materialized"
    dense = NetworkShape((24, 24, 576), (24, 24, 576), 2, core=((576, 576),), bits=16)
    cheapest = {
        shape: min(shape.factored_cost(1024), shape.materialized_cost(1024, fused=False))
        for shape in (kronecker, dense)
    }
    assert cheapest[kronecker] < cheapest[dense]


def test_what_is_not_kept_is_built_again():
    kept = SPLIT.materialized_cost(2 * N, fused=True)
    build = N * WHOLE + N * SMALL
    assert SPLIT.materialized_cost(2 * N, fused=True, recompute=True) == kept + build


@pytest.mark.parametrize("fused", [True, False])
def test_materialized_cost_by_hand(fused):
    tokens = 10
    build = N * WHOLE + N * SMALL
    # Few tokens: cheaper to bring gradient and input to the core than to form g^T x.
    core_gradient = tokens * (WHOLE + SMALL + N * N)
    own_products = 0 if fused else 2 * tokens * N * N
    expected = 2 * build + core_gradient + own_products
    assert SPLIT.materialized_cost(tokens, fused=fused) == expected


def test_many_tokens_form_the_gradient_of_the_weight():
    tokens = 100 * N
    core_gradient = tokens * N * N + N * WHOLE + N * SMALL
    expected = N * WHOLE + N * SMALL + core_gradient  # built once: kept until backward
    assert SPLIT.materialized_cost(tokens, fused=True) == expected


def test_crossover_by_hand():
    # Without the cheap side: factored 4 T n^2, materialized 2 n^3 + 2 T n^2, equal at T = n, from
    # where on the update is built once and its gradient costs T n^2 + n^3.
    assert choose_compute(SPLIT, int(0.96 * N), fused=True) == "factored"
    assert choose_compute(SPLIT, N, fused=True) == "materialized"
    # With two products of its own, 2 T n^2 more: 3 T n^2 + 2 n^3, equal at T = 2 n; a little
    # earlier with the cheap side, which all rows pass twice and the update's rows less often.
    assert choose_compute(SPLIT, int(1.8 * N), fused=False) == "factored"
    assert choose_compute(SPLIT, int(2.1 * N), fused=False) == "materialized"


@given(st.integers(0, 3 * N), st.integers(0, 3 * N), st.booleans())
def test_once_materialized_pays_it_pays_for_more_tokens(first, second, fused):
    few, many = sorted([first, second])
    if choose_compute(SPLIT, few, fused=fused) == "materialized":
        assert choose_compute(SPLIT, many, fused=fused) == "materialized"
