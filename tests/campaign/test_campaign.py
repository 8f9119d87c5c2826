"""A campaign of damaged and invalid input: no traceback, no silence, nobody's files touched.

`make test` runs 150 cases, TERA_PL_SOAK=1 (`make soak`) 3,000; the number of a case is its seed. To
repeat some: `python -m tests.campaign 1 --start <number>`.
"""

import signal

import pytest

from tests.attempts import share_parsers
from tests.campaign import signals
from tests.campaign.case import RAN, run_case
from tests.campaign.runner import case, defects, table
from tests.campaign.world import make_world
from tests.soak import more

pytestmark = pytest.mark.slow

CASES = more(150, times=20)  # of 150 all kinds have some
BATCHES = 10


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """One tiny run for all cases."""
    with pytest.MonkeyPatch.context() as patch:
        share_parsers(patch)
        yield make_world(tmp_path_factory.mktemp("campaign"))


@pytest.mark.parametrize("batch", range(BATCHES))
def test_every_case_runs_as_given_or_is_one_line(batch, world, record_property):
    each = CASES // BATCHES
    found = [case(number, world) for number in range(batch * each, (batch + 1) * each)]
    record_property("campaign", table(found))
    assert not defects(found), "\n".join(map(str, defects(found)))


@pytest.mark.parametrize("step", [2, 4])
def test_signal_in_a_step_with_a_validation_loses_no_validation(step, world, tmp_path):
    folder = world.copy_to(tmp_path / "case")
    found = signals.interrupt(folder, world, signal.SIGTERM, "on_train_batch_start", step)
    result = run_case(0, "signals", found, folder)
    assert result.outcome == RAN, result
