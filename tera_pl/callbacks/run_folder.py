"""Where a run writes, and its TensorBoard writers."""

from collections.abc import Iterator
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter


def run_folder(trainer: Trainer) -> Path:
    """Give the folder of a run: `runs/<name>/version_k`.

    All processes must ask together: the first tells the others.

    Args:
        trainer: The trainer of the run.

    Returns:
        Its log folder, or the trainer's root folder where nothing is logged.
    """
    return Path(trainer.log_dir or trainer.default_root_dir)


def tensorboard(trainer: Trainer) -> Iterator[SummaryWriter]:
    """Walk over the TensorBoard writers of a run: none, unless a logger is a TensorBoardLogger."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            yield logger.experiment
