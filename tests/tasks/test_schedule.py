"""Warm-up of a schedule that names none."""

import math

import pytest
import torch

from tera_pl.tasks import Schedule


@pytest.mark.parametrize(
    ("given", "steps", "warmup"),
    [(None, 5000, 100), (None, 300, 30), (None, 9, 0), (100, 300, 100), (0, 300, 0)],
)
def test_rate_rises_over_the_warm_up_and_falls_to_zero(given, steps, warmup):
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=0.5)
    schedule = Schedule(warmup_steps=given).build(optimizer, steps)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    rising = [0.5 * step / warmup for step in range(warmup)]
    falling = [0.5 * (steps - step) / (steps - warmup) for step in range(warmup, steps)]
    assert rates == pytest.approx(rising + falling)


def test_a_run_without_an_end_needs_a_schedule_without_one():
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=0.5)
    with pytest.raises(ValueError, match=r"schedule\.name is linear, and the run has no end"):
        Schedule().build(optimizer, math.inf)
    schedule = Schedule("constant_with_warmup", warmup_steps=2).build(optimizer, math.inf)
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == [0.0, 0.25, 0.5, 0.5]
