"""The learning rate schedule of a run."""

from dataclasses import dataclass
from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from tera_pl.errors import UserError


@dataclass(frozen=True)
class Schedule:
    """Learning rate over the optimizer steps of a run.

    Args:
        name: Name of a schedule of `transformers.get_scheduler` that needs no further argument.
        warmup_steps: Optimizer steps over which the rate rises linearly from zero (paper: 100).
    """

    name: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    warmup_steps: int = 100

    def __post_init__(self) -> None:
        if self.warmup_steps < 0:
            raise UserError(f"warmup_steps is {self.warmup_steps}: expected at least 0")

    def build(self, optimizer: Optimizer, steps: int) -> LRScheduler:
        """Build the scheduler of an optimizer for a number of optimizer steps."""
        return get_scheduler(
            self.name, optimizer, num_warmup_steps=self.warmup_steps, num_training_steps=steps
        )
