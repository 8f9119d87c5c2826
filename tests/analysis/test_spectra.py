"""Ranks against matrices whose singular values are known, and against numpy and scipy."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from tera_pl.analysis import summarize


def with_singular_values(values: list[float], rows: int, columns: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(rows, len(values), generator=generator, dtype=torch.double))
    right = torch.linalg.qr(
        torch.randn(columns, len(values), generator=generator, dtype=torch.double)
    )
    return left.Q @ torch.diag(torch.tensor(values, dtype=torch.double)) @ right.Q.T


def test_ranks_of_known_singular_values():
    values = [3.0, 2.0, 1.0, 0.5]
    spectrum = summarize(with_singular_values(values, 7, 5))
    assert spectrum.rank == 4
    assert spectrum.max_rank == 5
    assert spectrum.largest == pytest.approx(3.0)
    assert spectrum.stable_rank == pytest.approx((9 + 4 + 1 + 0.25) / 9)
    shares = np.array(values) / sum(values)
    assert spectrum.entropy_rank == pytest.approx(math.exp(scipy.stats.entropy(shares)))


def test_rank_counts_what_the_stated_tolerance_says():
    tolerance = 7 * np.finfo(np.float32).eps * 1.0
    values = [1.0, 2 * tolerance, 0.5 * tolerance]
    assert summarize(with_singular_values(values, 7, 5)).rank == 2
    assert summarize(with_singular_values(values, 7, 5)).tolerance == pytest.approx(tolerance)


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (5, 5)])
def test_rank_equals_numpy_in_float32(shape):
    generator = torch.Generator().manual_seed(1)
    left = torch.randn(shape[0], 3, generator=generator)
    matrix = left @ torch.randn(3, shape[1], generator=generator)
    assert summarize(matrix).rank == np.linalg.matrix_rank(matrix.numpy()) == 3


def test_zero_matrix_has_rank_zero():
    spectrum = summarize(torch.zeros(4, 6))
    assert (spectrum.rank, spectrum.stable_rank, spectrum.entropy_rank) == (0, 0.0, 0.0)
    assert spectrum.max_rank == 4


def test_not_a_number_is_an_error():
    with pytest.raises(ValueError, match=r"shape \(2, 3\) has NaN or infinite entries"):
        summarize(torch.full((2, 3), math.nan))
