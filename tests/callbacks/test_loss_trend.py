"""A run whose training loss did not fall says so."""

import random
import warnings
from types import SimpleNamespace

import pytest

from tera_pl.callbacks import LossTrend


def warnings_of(losses, step=0, lr=0.01):
    callback = LossTrend()
    trainer = SimpleNamespace(global_step=step, callback_metrics={})
    task = SimpleNamespace(spec=SimpleNamespace(optimizer={"lr": lr}))
    callback.on_train_start(trainer, task)
    for loss in losses:
        trainer.callback_metrics["train/loss"] = loss
        callback.on_train_batch_end(trainer, task, None, None, 0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        callback.on_fit_end(trainer, task)
    return [str(warning.message) for warning in caught]


NOISE = [random.Random(i).gauss(0, 0.1) for i in range(30)]


def test_flat_loss():
    (message,) = warnings_of([2 + noise for noise in NOISE])
    assert message.startswith("the training loss did not fall: ")
    assert "lr 0.1, more steps" in message


def test_rising_loss():
    (message,) = warnings_of([2 + i / 10 + noise for i, noise in enumerate(NOISE)])
    assert message.startswith("the training loss rose: ")
    assert "try model.init_args.optimizer.init_args.lr 0.001, and" in message


@pytest.mark.parametrize(
    "losses",
    [
        [2 - i / 10 + noise for i, noise in enumerate(NOISE)],
        NOISE[:19],  # too few to judge
    ],
)
def test_nothing_to_say(losses):
    assert warnings_of(losses) == []


def test_resumed_runs_are_not_judged():
    assert warnings_of(NOISE, step=40) == []


def test_a_run_that_is_stopped_before_training_is_not_judged():
    LossTrend().on_fit_end(SimpleNamespace(), SimpleNamespace())
