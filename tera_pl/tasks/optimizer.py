"""Build the optimizer of a run and check its settings."""

import math
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from tera_pl.errors import UserError

KEY = "model.init_args.optimizer"


def build_optimizer(build: Callable[..., Any], parameters: Iterable[nn.Parameter]) -> Optimizer:
    """Build an optimizer of the trainable parameters.

    Args:
        build: Builds an optimizer from parameters; from the configuration.
        parameters: All parameters, frozen ones included, on any device.

    Returns:
        The optimizer.

    Raises:
        UserError: If no parameter is trainable, `build` returns something else than an optimizer,
            the learning rate is not positive, or another setting is not finite.
    """
    trained = [p for p in parameters if p.requires_grad]
    if not trained:
        raise UserError("model.init_args.adapter has no trainable parameters: expected another")
    optimizer = build(trained)
    if not isinstance(optimizer, Optimizer):
        raise UserError(f"{KEY} gives {type(optimizer).__name__}: expected a torch.optim.Optimizer")
    for name, value in optimizer.defaults.items():
        for number in value if isinstance(value, tuple | list) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise UserError(f"{KEY}.init_args.{name} is {value}: expected a finite number")
    rate = optimizer.defaults.get("lr", 1.0)
    if isinstance(rate, int | float) and not rate > 0:
        raise UserError(f"{KEY}.init_args.lr is {rate}: expected more than 0")
    return optimizer
