"""docs/support_matrix.md is what happens."""

import pytest

from tests.methods.support_matrix import PAGE, as_table, compute, with_table

pytestmark = pytest.mark.slow


def test_every_cell_is_what_happens(tmp_path):
    assert PAGE.read_text() == with_table(as_table(compute(tmp_path)))
