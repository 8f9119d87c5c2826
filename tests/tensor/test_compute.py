"""Costs by hand, and the choice they lead to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tera_pl.tensor import choose_compute
from tera_pl.tensor.compute import MOVE, factored_cost, kron_cost, materialised_cost

N = 4096
SPLIT = {"modes": [64, 64, N], "ranks": [64, 64, N], "out_order": 2}
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
    shape = SPLIT | {"identity": [2]}
    assert factored_cost(tokens=10, **shape) == 10 * (2 * N * N + 2 * SMALL)
    # The gradient of the core is one product, whichever way.
    expected = 2 * N * SMALL + min(10 * N * N + N * SMALL, 10 * (N * N + SMALL))
    assert materialised_cost(tokens=10, fused=True, **shape) == expected


def test_factored_cost_by_hand():
    assert factored_cost(tokens=10, **SPLIT) == 10 * (2 * WHOLE + 2 * N * N + 2 * SMALL)


def test_a_projected_input_costs_neither_way():
    expected = 10 * (2 * N * N + 2 * SMALL)
    assert factored_cost(tokens=10, projected=True, **SPLIT) == expected
    # A narrow layer beside a wide one, as v beside q: T n^2 / 2 against more than that.
    narrow = {"modes": [32, 32, N], "ranks": [32, 32, N], "out_order": 2, "fused": False}
    assert choose_compute(tokens=N, projected=True, **narrow) == "factored"
    assert choose_compute(tokens=N, **narrow) == "materialised"


def test_a_structured_core_costs_what_its_products_do():
    expected = 10 * (2 * WHOLE + 2 * SMALL + 2 * SMALL)
    assert factored_cost(tokens=10, core_cost=SMALL, **SPLIT) == expected
    both = {"modes": [64] * 4, "ranks": [64] * 4, "out_order": 2, "fused": True}
    assert choose_compute(tokens=4 * N, core_cost=SMALL, **both) == "factored"
    assert choose_compute(tokens=4 * N, **both) == "materialised"
    # Products with matrices of 32 x 32 are as slow as one with the whole, where that is small.
    small = {"modes": [32] * 4, "ranks": [32] * 4, "out_order": 2, "fused": True}
    cost = kron_cost([32, 32], [32, 32])
    assert choose_compute(tokens=512, core_cost=cost, **small) == "factored"
    assert choose_compute(tokens=8192, core_cost=cost, **small) == "materialised"


@pytest.mark.parametrize("fused", [True, False])
def test_materialised_cost_by_hand(fused):
    tokens = 10
    build = N * WHOLE + N * SMALL
    # Few tokens: cheaper to bring gradient and input to the core than to form g^T x.
    core_gradient = tokens * (WHOLE + SMALL + N * N)
    own_products = 0 if fused else 2 * tokens * N * N
    expected = 2 * build + core_gradient + own_products
    assert materialised_cost(tokens=tokens, fused=fused, **SPLIT) == expected


def test_many_tokens_form_the_gradient_of_the_weight():
    tokens = 100 * N
    core_gradient = tokens * N * N + N * WHOLE + N * SMALL
    expected = N * WHOLE + N * SMALL + core_gradient  # built once: kept until backward
    assert materialised_cost(tokens=tokens, fused=True, **SPLIT) == expected


def test_crossover_by_hand():
    # Without the cheap side: factored 4 T n^2, materialised 2 n^3 + 2 T n^2, equal at T = n, from
    # where on the update is built once and its gradient costs T n^2 + n^3.
    assert choose_compute(tokens=int(0.96 * N), fused=True, **SPLIT) == "factored"
    assert choose_compute(tokens=N, fused=True, **SPLIT) == "materialised"
    # With two products of its own, 2 T n^2 more: 3 T n^2 + 2 n^3, equal at T = 2 n; a little
    # earlier with the cheap side, which all rows pass twice and the update's rows less often.
    assert choose_compute(tokens=int(1.8 * N), fused=False, **SPLIT) == "factored"
    assert choose_compute(tokens=int(2.1 * N), fused=False, **SPLIT) == "materialised"


@given(st.integers(0, 3 * N), st.integers(0, 3 * N), st.booleans())
def test_once_materialised_pays_it_pays_for_more_tokens(first, second, fused):
    few, many = sorted([first, second])
    if choose_compute(tokens=few, fused=fused, **SPLIT) == "materialised":
        assert choose_compute(tokens=many, fused=fused, **SPLIT) == "materialised"
