"""Refuse trainer settings that Lightning accepts although they cannot work."""

import math
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    LearningRateFinder,
    StochasticWeightAveraging,
    WeightAveraging,
)

from tera_pl.errors import UserError

# Lightning checks the minimum of the other settings itself.
_MINIMUM = {
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "gradient_clip_val": 0,
    "log_every_n_steps": 0,
    "min_epochs": 0,
    "min_steps": 0,
    "num_nodes": 1,
    "num_sanity_val_steps": -1,
}
# Zero of them trains nothing, and Lightning ends such a run as if it were done.
_TRAINING = ("max_steps", "max_epochs", "limit_train_batches")
UNSUPPORTED: dict[type[Callback], str] = {
    WeightAveraging: "it keeps and saves a second copy of the base; checkpoints here hold the "
    "trained tensors only",
    StochasticWeightAveraging: "it keeps a second copy of the base and replaces the learning rate "
    "schedule, which a checkpoint must match",
    BatchSizeFinder: "it changes the batch size, which a checkpoint must match: try sizes with "
    "`python -m tera_pl estimate --batch` and set data.init_args.batch_size",
    LearningRateFinder: "the rate belongs to model.init_args.optimizer: search it with "
    "`python -m tera_pl study`",
}


def check_trainer(settings: Mapping[str, Any], subcommand: str) -> None:
    """Refuse settings below their minimum, some of which would fail in the middle of a run.

    Args:
        settings: Settings of the trainer by name.
        subcommand: `fit`, `validate`, `test` or `predict`.

    Raises:
        UserError: If one is too small or not finite, or `fit` would train nothing.
    """
    for name in _TRAINING if subcommand == "fit" else ():
        if settings.get(name) == 0:
            raise UserError(
                f"trainer.{name} is 0: fit would train nothing: expected more, or the subcommand "
                "validate or test"
            )
    max_time = settings.get("max_time")
    if subcommand == "fit" and max_time is not None and _seconds(max_time) <= 0:
        raise UserError(
            f"trainer.max_time is {max_time}: fit would train nothing: expected more than 0, such "
            "as 00:01:30:00 for an hour and a half"
        )
    for name, minimum in _MINIMUM.items():
        value = settings.get(name)
        if value is not None and not minimum <= value < math.inf:
            raise UserError(f"trainer.{name} is {value}: expected at least {minimum}")
    interval = settings.get("val_check_interval")
    if isinstance(interval, int | float) and not interval > 0:
        raise UserError(
            f"trainer.val_check_interval is {interval}: expected a number of batches, or a share "
            "of an epoch up to 1.0"
        )


def _seconds(max_time: str | timedelta | Mapping[str, int]) -> float:
    """Convert a duration; one that Lightning refuses itself is infinite."""
    try:
        if isinstance(max_time, str):
            days, hours, minutes, seconds = map(int, max_time.split(":"))
            max_time = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
        elif not isinstance(max_time, timedelta):
            max_time = timedelta(**max_time)
    except (ValueError, TypeError, OverflowError):
        return math.inf
    return max_time.total_seconds()


def check_callbacks(callbacks: Sequence[Callback]) -> None:
    """Refuse callbacks of Lightning that do not work with this project's checkpoints.

    Args:
        callbacks: Callbacks of a trainer.

    Raises:
        UserError: If one is unsupported.
    """
    for callback in callbacks:
        for cls, reason in UNSUPPORTED.items():
            if isinstance(callback, cls):
                raise UserError(
                    f"trainer.callbacks: {type(callback).__name__} is unsupported: {reason}"
                )
