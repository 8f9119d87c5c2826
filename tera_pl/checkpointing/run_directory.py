"""The run directory, and the TensorBoard writers of a run."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.tensorboard import SummaryWriter

from tera_pl.checkpointing.atomic_writes import write_atomically
from tera_pl.checkpointing.markers import check_unclaimed, claim_folder, mark_new_folder

KIND = "run"
# Runs without a logger write to this folder of `trainer.default_root_dir`.
UNLOGGED = "unlogged"


def run_directory(trainer: Trainer) -> Path:
    """Give the run directory: `runs/<name>/version_k`.

    All processes must call this together: rank 0 broadcasts its folder.

    Args:
        trainer: The trainer of the run.

    Returns:
        The folder of its first logger, or the trainer's root folder without a logger.
    """
    folder = folder_of(trainer.loggers) or Path(trainer.default_root_dir)
    return trainer.strategy.broadcast(folder)


def folder_of(loggers: Sequence[Logger]) -> Path | None:
    """Give the folder in which the first logger of a run writes, in this process.

    Args:
        loggers: The loggers of a trainer.

    Returns:
        The folder, or None if the logger writes no files.
    """
    if not loggers or loggers[0].save_dir is None:
        return None
    first = loggers[0]
    if isinstance(first, TensorBoardLogger | CSVLogger):
        return Path(first.log_dir)
    # Runs of other loggers share their `save_dir`; ModelCheckpoint builds the same path.
    version = first.version if isinstance(first.version, str) else f"version_{first.version}"
    assert first.save_dir is not None
    return Path(first.save_dir, str(first.name), version)


def place_run(logger: Any, root: str | Path | None) -> Path:
    """Choose the run directory of a new run; nothing is created.

    Args:
        logger: `trainer.logger`: a logger, a list of them, a boolean or None.
        root: `trainer.default_root_dir`.

    Returns:
        The logger's folder, or `<root>/unlogged/version_k` without a logger; the default root is
        `runs`.

    Raises:
        UserError: If the logger's folder is the current one, or is not empty.
    """
    loggers = logger if isinstance(logger, list) else [logger]
    if loggers[:1] in ([None], [True]):  # Lightning's own, which numbers its folders
        return Path(root or "runs")
    logged = None if loggers[:1] in ([], [False]) else folder_of(loggers)
    run = logged or _new_version(Path(root or "runs") / UNLOGGED)
    # The other ranks may see what rank 0 has created since.
    rank_zero_only(check_unclaimed)(run, KIND)
    if logged and SLURMEnvironment.detect():
        # Lightning looks here for the checkpoint that it saved when the job was requeued.
        return Path(root or Path.cwd())
    return run


def _new_version(folder: Path) -> Path:
    number = 0
    while (folder / f"version_{number}").exists():
        number += 1
    return folder / f"version_{number}"


def keep_older(path: Path) -> None:
    """Give an older file of a run a numbered name that is free: `<name>-1.<suffix>`.

    Args:
        path: The file, in a run directory; it may be missing.
    """
    if path.exists():
        number = 1
        while (older := path.with_name(f"{path.stem}-{number}{path.suffix}")).exists():
            number += 1
        path.rename(older)


class RunConfig(SaveConfigCallback):
    """Mark the run directory and write the configuration into it, atomically.

    Lightning's class writes to the logger's `save_dir`, which several runs may share. With
    `overwrite` the run resumes in its directory; otherwise the directory must be new.
    """

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Mark the directory and write the file, once."""
        if self.already_saved:
            return
        folder = run_directory(trainer)
        if trainer.is_global_zero:
            if self.overwrite:
                claim_folder(folder, KIND)
            else:
                mark_new_folder(folder, KIND)
            text = self.parser.dump(self.config, skip_unset=False)
            write_atomically(folder / self.config_filename, text)
        self.already_saved = True


def tensorboard(trainer: Trainer) -> Iterator[SummaryWriter]:
    """Iterate over the writers of the TensorBoardLoggers of a run."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            yield logger.experiment
