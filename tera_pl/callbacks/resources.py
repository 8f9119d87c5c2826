"""Measure tokens, time and memory of a run."""

import resource
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from tera_pl.analysis import count
from tera_pl.contracts import TrainBatch


@dataclass(frozen=True)
class Step:
    """One training step.

    Args:
        examples: Rows of the batch.
        tokens: Its tokens, without padding.
        seconds: Time from the start of the step to its end, without loading the batch.
    """

    examples: int
    tokens: int
    seconds: float


class ResourceMonitor(Callback):
    """Measure training steps; log counts, peak memory and throughput as `resources/...`.

    This is the only clock of training steps. Other callbacks find it by `find_monitor` and call
    `measure`, in any order.
    """

    def __init__(self) -> None:
        self.summary: dict[str, int | float] = {}
        self._tokens = 0
        self._seconds = 0.0
        self._batch_start = 0.0
        self._step: Step | None = None

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Count the parameters and start measuring memory."""
        self.summary |= asdict(count(pl_module.model))
        self._interval = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock of a step."""
        self._step = None
        self._batch_start = time.perf_counter()

    def measure(self, batch: TrainBatch) -> Step:
        """Measure the step that has just ended; the first call for a step stops its clock.

        Args:
            batch: The batch of the step.

        Returns:
            Examples, tokens and seconds of the step.
        """
        if self._step is None:
            mask = batch["attention_mask"]
            seconds = time.perf_counter() - self._batch_start
            self._step = Step(len(mask), int(mask.sum()), seconds)
        return self._step

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Add the tokens and seconds of the step; those of validation are not counted."""
        step = self.measure(batch)
        self._tokens += step.tokens
        self._seconds += step.seconds
        if trainer.global_step and trainer.global_step % self._interval == 0:
            self._log(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the totals."""
        self._log(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Save the totals for a resumed run."""
        return {"tokens": self._tokens, "seconds": self._seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the totals."""
        self._tokens, self._seconds = state_dict["tokens"], state_dict["seconds"]

    def _log(self, trainer: Trainer) -> None:
        self.summary |= {
            "train_seconds": self._seconds,
            "train_tokens": self._tokens,
            "tokens_per_second": self._tokens / max(self._seconds, 1e-9),
            "peak_memory_bytes": peak_memory_bytes(),
        }
        for logger in trainer.loggers:
            logger.log_metrics(
                {f"resources/{k}": v for k, v in self.summary.items()}, step=trainer.global_step
            )


def find_monitor(trainer: Trainer) -> ResourceMonitor | None:
    """Find the resource monitor among the callbacks of a trainer."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return next((c for c in callbacks if isinstance(c, ResourceMonitor)), None)


def peak_memory_bytes() -> int:
    """Give the peak memory of the accelerator, or of the process where there is none."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    # Kilobytes on Linux.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
