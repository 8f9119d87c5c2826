"""Count and time what a run costs."""

import resource
import time
from dataclasses import asdict
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from tera_pl.analysis import count


class ResourceMonitor(Callback):
    """Log counts, peak memory and speed of training as `resources/...`."""

    def __init__(self) -> None:
        self.summary: dict[str, int | float] = {}
        self._tokens = 0
        self._seconds = 0.0
        self._batch_start = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Count the numbers and start measuring memory."""
        self.summary |= asdict(count(pl_module.model))
        self._interval = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock of a step."""
        self._batch_start = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count the tokens and seconds of a step; validation is not in them."""
        self._tokens += int(batch["attention_mask"].sum())
        self._seconds += time.perf_counter() - self._batch_start
        if trainer.global_step and trainer.global_step % self._interval == 0:
            self._log(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the totals."""
        self._log(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Keep the totals of a run that goes on."""
        return {"tokens": self._tokens, "seconds": self._seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them over."""
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


def peak_memory_bytes() -> int:
    """Give the peak memory of the accelerator, or of the process where there is none."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    # Kilobytes on Linux.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
