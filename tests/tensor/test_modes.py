"""Splits by hand and against trying all."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tera_pl.tensor import plan_modes


@pytest.mark.parametrize(
    ("size", "modes", "expected"),
    [
        (4096, 1, (4096,)),
        (4096, 2, (64, 64)),
        (4096, 3, (16, 16, 16)),
        (4096, 4, (8,) * 4),
        (4096, 6, (4,) * 6),
        (4096, 12, (2,) * 12),
        (1024, 2, (32, 32)),
        (1024, 5, (4,) * 5),
        (3072, 2, (48, 64)),
        (11008, 2, (86, 128)),
        (14336, 2, (112, 128)),
        (14336, 3, (16, 28, 32)),
        (6, 2, (2, 3)),
        (1, 1, (1,)),
        (7, 1, (7,)),
        (12, [3, 4], (3, 4)),
        (12, (4, 3), (4, 3)),
        (12, [12], (12,)),
    ],
)
def test_splits(size, modes, expected):
    assert plan_modes(size, modes) == expected


@given(st.integers(2, 400), st.integers(2, 5))
def test_balanced_split_has_the_smallest_sum(size, num_modes):
    divisors = [d for d in range(2, size + 1) if size % d == 0]
    combinations = itertools.combinations_with_replacement(divisors, num_modes)
    splits = [split for split in combinations if math.prod(split) == size]
    if splits:
        planned = plan_modes(size, num_modes)
        assert planned in splits
        assert sum(planned) == min(map(sum, splits))
    else:
        with pytest.raises(ValueError, match=f"cannot split size {size} into {num_modes} modes"):
            plan_modes(size, num_modes)


@pytest.mark.parametrize("modes", [[5, 2], [], [1, 12], [12, 1], [-3, -4], [0]])
def test_wrong_sizes_are_refused(modes):
    with pytest.raises(ValueError, match="dimension of size 12: expected"):
        plan_modes(12, modes)


def test_prime_and_count_errors():
    with pytest.raises(ValueError, match="size 13 into 2 modes of at least 2: it has only 1 prime"):
        plan_modes(13, 2)
    with pytest.raises(ValueError, match="size 12 into 0 modes"):
        plan_modes(12, 0)
