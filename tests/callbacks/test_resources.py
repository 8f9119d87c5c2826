"""A step is measured once, whichever callback asks first."""

from types import SimpleNamespace

import pytest
import torch

from tera_pl.callbacks import PeftComparison, ResourceMonitor, resources
from tera_pl.errors import UserError

BATCH = {"attention_mask": torch.tensor([[1, 1, 1], [1, 0, 0]])}


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves by hand."""
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(resources.time, "perf_counter", lambda: now.seconds)
    return now


@pytest.mark.parametrize("monitor_first", [True, False])
def test_callbacks_report_the_same_steps_in_either_order(clock, monitor_first):
    monitor, comparison = ResourceMonitor(), PeftComparison()
    callbacks = [monitor, comparison] if monitor_first else [comparison, monitor]
    trainer = SimpleNamespace(callbacks=callbacks, accumulate_grad_batches=1, global_step=0)
    for seconds in (2.0, 3.0):
        for callback in callbacks:
            callback.on_train_batch_start(trainer, None, BATCH, 0)
        clock.seconds += seconds
        for callback in callbacks:
            callback.on_train_batch_end(trainer, None, {"loss": torch.tensor(1.0)}, BATCH, 0)
            clock.seconds += 10.0  # what a callback takes is no part of the step
    assert monitor.state_dict() == {"tokens": 8, "seconds": 5.0}
    measured = comparison.state_dict()
    assert (measured["_tokens"], measured["_train_seconds"], measured["_samples"]) == (8, 5.0, 4)


def test_the_comparison_needs_the_monitor():
    with pytest.raises(UserError, match="needs the callback ResourceMonitor"):
        PeftComparison().setup(SimpleNamespace(callbacks=[]), None, "fit")
