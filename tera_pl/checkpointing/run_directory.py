"""The run directory: where checkpoints, results and logs of a run are."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from tera_pl.checkpointing.atomic_writes import write_atomically
from tera_pl.checkpointing.markers import check_unclaimed, claim_folder, mark_new_folder
from tera_pl.checkpointing.service_runs import remember_runs

KIND = "run"
# Loggers that number the folders of runs; the others share a folder or write to a service.
LOCAL = (TensorBoardLogger, CSVLogger)
# Folder of runs without a logger.
UNLOGGED = "unlogged"


def run_directory(trainer: Trainer) -> Path:
    """Give the run directory: `runs/<name>/version_k`.

    All processes must call this together: rank 0 broadcasts its folder.

    Args:
        trainer: The trainer of the run.

    Returns:
        The folder of its first TensorBoardLogger or CSVLogger, or else the trainer's root folder.
    """
    folder = folder_of(trainer.loggers) or Path(trainer.default_root_dir)
    return trainer.strategy.broadcast(folder)


def folder_of(loggers: Iterable[Logger]) -> Path | None:
    """Give the folder that the loggers of a run have numbered for it, in this process.

    Args:
        loggers: The loggers of a trainer.

    Returns:
        The folder of the first TensorBoardLogger or CSVLogger, or None without one.
    """
    first = next((logger for logger in loggers if isinstance(logger, LOCAL)), None)
    if first is None:
        return None
    folder = Path(first.log_dir)
    sub_dir = getattr(first, "sub_dir", None)
    # Event files only are in `sub_dir`.
    return folder.parents[len(Path(sub_dir).parts) - 1] if sub_dir else folder


def runs_without_folder(root: str | Path | None, names: Sequence[str]) -> Path:
    """Give the parent of run directories that no logger numbers.

    Args:
        root: `trainer.default_root_dir`.
        names: Class names of the loggers, for example `WandbLogger`.

    Returns:
        For example `runs/WandbLogger`, or `runs/unlogged` without a logger; each run has a folder
        `version_k` in it.
    """
    return Path(root or "runs") / (names[0] if names else UNLOGGED)


def place_run(logger: Any, root: str | Path | None) -> Path:
    """Choose the run directory of a new run; nothing is created.

    Args:
        logger: `trainer.logger`: a logger, a list of them, a boolean or None.
        root: `trainer.default_root_dir`.

    Returns:
        The folder of the first TensorBoardLogger or CSVLogger, or else a new `version_k` in
        `runs_without_folder`.

    Raises:
        UserError: If the logger's folder is the current one, or is not empty.
    """
    loggers = logger if isinstance(logger, list) else [logger]
    if loggers[:1] in ([None], [True]):  # Lightning's own, which numbers its folders
        return Path(root or "runs")
    loggers = [] if loggers[:1] == [False] else loggers
    logged = folder_of(loggers)
    names = [type(one).__name__ for one in loggers]
    run = logged or _new_version(runs_without_folder(root, names))
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
    `overwrite` the run resumes in its directory; otherwise the directory must be new. Every
    ModelCheckpoint without a `dirpath` gets `checkpoints/` of the run directory: Lightning's choice
    depends on the first logger, and has the id of a run that does not exist yet.
    """

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Mark the directory and write the file, once."""
        if self.already_saved:
            return
        folder = run_directory(trainer)
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
                callback.dirpath = str(folder / "checkpoints")
        if trainer.is_global_zero:
            if self.overwrite:
                claim_folder(folder, KIND)
            else:
                mark_new_folder(folder, KIND)
            text = self.parser.dump(self.config, skip_unset=False)
            write_atomically(folder / self.config_filename, text)
            remember_runs(folder, trainer.loggers)
        self.already_saved = True
