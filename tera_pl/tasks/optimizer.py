"""Build the optimizer of a run and check its settings."""

import math
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from tera_pl.errors import UserError

KEY = "model.init_args.optimizer"
# Learning rates of AdamW by class of the adapter, for configurations that have none:
# docs/learning_rates.md, "Without a rate". TeRA's is that of the quickstart. Each of the others is
# halfway, by its logarithm, between the best of five on MiniWorld and that of the shipped
# configurations for the Llamas, on the grid of 1, 3 and 10.
RATES = {
    "TeraConfig": 0.1,
    "LoraConfig": 3e-3,
    "HiraConfig": 1e-2,
    "VeraConfig": 1e-2,
    "RandLoraConfig": 1e-3,
    "IA3Config": 1e-2,
    "LorettaConfig": 1e-2,
    "MoraConfig": 3e-3,
    "LotrConfig": 3e-3,
    "PromptTuningConfig": 3e-2,
    "PromptEncoderConfig": 3e-3,
}
FULL_RATE = 3e-5
OTHER_RATE = 1e-3


def default_rate(adapter: type | None) -> float:
    """Give the learning rate of AdamW for a run that names none.

    Args:
        adapter: Class of the adapter's configuration, or None for full fine-tuning.

    Returns:
        The rate of the method.
    """
    if adapter is None:
        return FULL_RATE
    names = (cls.__name__ for cls in adapter.__mro__)
    return next((RATES[name] for name in names if name in RATES), OTHER_RATE)


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
