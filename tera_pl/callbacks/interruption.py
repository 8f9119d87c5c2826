"""Stop between two steps when a signal asks for it, and say how to go on."""

import signal
import threading
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn

from tera_pl.checkpointing.resume_command import resume_command_of
from tera_pl.distributed.fsdp2 import any_rank
from tera_pl.errors import DISK_ERRORS, RunStoppedError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption(Callback):
    """On SIGTERM or SIGINT, finish the step, save `last.ckpt` and stop with the resume command.

    A second signal stops at once. A signal during validation stops after a batch and saves nothing:
    the checkpoint before it goes on to the same bits. Of several processes one may get the signal;
    all stop after the same step, the first after validation. Under SLURM, Lightning's own handler
    requeues the job (SIGUSR1).
    """

    def __init__(self) -> None:
        self._received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen, in the place of Lightning's handler of SIGTERM, which saves nothing."""
        self._received = None
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Listen no more."""
        self._restore()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Listen no more; add to an error of the disk, and to an interrupt, how to go on."""
        self._restore()
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
        """Save and stop if a signal came."""
        # Between the batches that make one optimizer step there is nothing to save.
        accumulating = (batch_idx + 1) % trainer.accumulate_grad_batches != 0
        # A run resumed from here would skip the validation that is due, and its checkpoints: stop
        # in it, or after the step that follows it.
        loop = trainer.fit_loop
        assert loop._data_fetcher is not None
        due = loop.epoch_loop._should_check_val_fx(loop._data_fetcher)
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
        """Stop if a signal came."""
        # Others may have a batch less, and could not be asked.
        if self._received is not None and trainer.world_size == 1:
            self._stop(trainer)

    def _restore(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

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
