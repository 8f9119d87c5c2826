"""Stop between two steps on a signal, and report how to resume."""

import signal
import threading
from types import FrameType
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn

from tera_pl.callbacks.process_settings import ProcessSettings
from tera_pl.checkpointing.resume_command import resume_command_of
from tera_pl.distributed.fsdp2 import any_rank
from tera_pl.errors import DISK_ERRORS, RunStoppedError
from tera_pl.private_api.lightning import validates_now

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption(ProcessSettings):
    """On SIGTERM or SIGINT, finish the step, save `last.ckpt` and stop with the resume command.

    A second signal stops at once. A signal during validation stops after a batch and saves nothing:
    the checkpoint before it resumes to the same bits. If only some processes get the signal, all
    stop after the same step; a signal during validation then counts after the first step that
    follows. Under SLURM, Lightning's own handler requeues the job (SIGUSR1).
    """

    def __init__(self) -> None:
        super().__init__()
        self._received: signal.Signals | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace the signal handlers; Lightning's handler of SIGTERM saves no checkpoint."""
        self._received = None
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._restore.callback(signal.signal, number, signal.signal(number, self._note))

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Restore the handlers; add the resume command to a disk error and to an interrupt."""
        super().on_exception(trainer, pl_module, exception)
        full = isinstance(exception, OSError) and exception.errno in DISK_ERRORS
        if full or isinstance(exception, KeyboardInterrupt):
            exception.add_note(resume_command_of(trainer))

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save and stop after a signal."""
        # A checkpoint cannot hold the gradients that are accumulated for the next optimizer step.
        accumulating = (batch_idx + 1) % trainer.accumulate_grad_batches != 0
        # A run resumed from here would skip the validation that is due, and its checkpoints: stop
        # during the validation, or after the step that follows it.
        due = validates_now(trainer)
        if accumulating or due or not any_rank(self._received is not None, pl_module.device):
            return
        checkpoint = trainer.checkpoint_callback
        if isinstance(checkpoint, ModelCheckpoint) and checkpoint.dirpath:
            path = f"{checkpoint.dirpath}/last.ckpt"
            trainer.save_checkpoint(path)
            checkpoint.last_model_path = path
        self._stop(trainer)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop after a signal."""
        # Other processes may have fewer batches: no collective call is possible here.
        if self._received is not None and trainer.world_size == 1:
            self._stop(trainer)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None:
            raise KeyboardInterrupt
        self._received = signal.Signals(number)
        rank_zero_warn(f"{self._received.name}: stopping after this step")

    def _stop(self, trainer: Trainer) -> None:
        received = self._received.name if self._received else "stopped by another process"
        raise RunStoppedError(
            f"{received} after step {trainer.global_step}; {resume_command_of(trainer)}"
        )
