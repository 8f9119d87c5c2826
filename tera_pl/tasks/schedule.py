"""The learning rate schedule of a run."""

import math
from dataclasses import dataclass
from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from tera_pl.errors import UserError

PAPER_WARMUP = 100


@dataclass(frozen=True)
class Schedule:
    """Learning rate over the optimizer steps of a run.

    Args:
        name: Name of a schedule of `transformers.get_scheduler` that needs no further argument.
        warmup_steps: Optimizer steps over which the rate rises linearly from zero; if null 100, as
            in the paper, but at most a tenth of the run's steps.
    """

    name: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    warmup_steps: int | None = None

    def __post_init__(self) -> None:
        if self.warmup_steps is not None and self.warmup_steps < 0:
            raise UserError(f"warmup_steps is {self.warmup_steps}: expected at least 0")

    def build(self, optimizer: Optimizer, steps: float) -> LRScheduler:
        """Build the scheduler of an optimizer for a number of optimizer steps, maybe infinite."""
        if self.name != "constant_with_warmup" and not math.isfinite(steps):
            raise UserError(
                f"model.init_args.schedule.name is {self.name}, and the run has no end: expected "
                "trainer.max_steps or trainer.max_epochs, or constant_with_warmup"
            )
        number = int(steps) if math.isfinite(steps) else None
        return get_scheduler(
            self.name, optimizer, num_warmup_steps=self.warmup(steps), num_training_steps=number
        )

    def warmup(self, steps: float = math.inf) -> int:
        """Give the number of warm-up steps of a run of a number of optimizer steps."""
        return (
            int(min(PAPER_WARMUP, steps / 10)) if self.warmup_steps is None else self.warmup_steps
        )
