"""One line that shows how far a run is."""

import math
import sys
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from tera_pl.progress import CONSOLE, Pace


class ProgressLine(ProgressBar):
    """Show steps, time left and training loss on a terminal; the line disappears at the end.

    The time left is that of all steps of `fit`, validations included. A file gets no progress line.
    """

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._progress: Progress | None = None
        self._task = TaskID(0)

    def enable(self) -> None:
        """Show the line."""
        self._enabled = True

    def disable(self) -> None:
        """Do not show the line."""
        self._enabled = False

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show that the first batches of validation are tried."""
        self._start("trying validation", 0, None)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the steps of training."""
        steps = trainer.estimated_stepping_batches
        total = steps if math.isfinite(steps) else None
        self._start(_step(trainer.global_step, total), trainer.global_step, total)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Show the step, the time left and the loss."""
        if self._progress is None:
            return
        scores = trainer.progress_bar_metrics
        shown = [f"{name} {scores[name]:.3f}" for name in scores if name.startswith("train/")]
        step = trainer.global_step
        self._update(step, _step(step, self._pace.total), "  ".join(shown))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the batches of `validate`."""
        if trainer.state.fn == "validate":
            self._start("validation", 0, sum(map(float, trainer.num_val_batches)))

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Show the batch."""
        if trainer.state.fn == "validate":
            self._update(batch_idx + 1, "validation")
        elif self._progress is not None and not trainer.sanity_checking:
            total = trainer.num_val_batches[dataloader_idx]
            text = f"{_step(trainer.global_step, self._pace.total)}, validation"
            self._update(trainer.global_step, f"{text} {batch_idx + 1}/{total}")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the batches of `test`."""
        self._start("test", 0, sum(map(float, trainer.num_test_batches)))

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the batches of `predict`."""
        self._start("predict", 0, sum(map(float, trainer.num_predict_batches)))

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Show the batch."""
        self._update(batch_idx + 1, f"{trainer.state.fn}, batch {batch_idx + 1}")

    on_predict_batch_end = on_test_batch_end

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the line: other callbacks still work."""
        self._stop()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the line."""
        self._stop()

    on_predict_end = on_sanity_check_end = on_test_end

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the line of `validate`."""
        if trainer.state.fn == "validate":
            self._stop()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remove the line."""
        self._stop()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Remove the line."""
        self._stop()

    def _start(self, text: str, done: int, total: float | None) -> None:
        self._stop()
        self._pace = Pace(done, total)
        if not (self._enabled and CONSOLE.is_terminal):
            return
        columns = [
            TextColumn("{task.description}"),
            BarColumn(24),
            TextColumn("{task.fields[left]}  {task.fields[scores]}"),
        ]
        self._progress = Progress(
            *columns,
            console=CONSOLE,
            transient=True,
            refresh_per_second=4,
            # What is printed above the line may go to a file.
            redirect_stdout=sys.stdout.isatty(),
        )
        self._task = self._progress.add_task(text, total=total, completed=done, left="", scores="")
        self._progress.start()

    def _update(self, done: int, text: str, scores: str = "") -> None:
        if self._progress is not None:
            left = self._pace.left(done)
            self._progress.update(
                self._task, completed=done, description=text, left=left, scores=scores
            )

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def _step(step: int, total: float | None) -> str:
    return f"step {step}" if total is None else f"step {step}/{total:.0f}"
