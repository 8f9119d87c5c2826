"""The command that resumes a run, for messages about runs that were stopped."""

from pathlib import Path
from typing import Any

from tera_pl.errors import RunStoppedError, describe_disk_error


def resume_command_of(trainer: Any) -> str:
    """Give the command that resumes a run from its last checkpoint.

    Args:
        trainer: The trainer of the run.

    Returns:
        One clause without a period.
    """
    folder = getattr(trainer.checkpoint_callback, "dirpath", None)
    if folder is None:
        return "no checkpoint was saved yet: start again"
    return resume_command(Path(folder))


def resume_command(checkpoints: Path) -> str:
    """Give the command that resumes a run from the last checkpoint in a folder.

    Args:
        checkpoints: Checkpoint folder inside the run directory.

    Returns:
        One clause without a period.
    """
    paths = [checkpoints / name for name in ("last.ckpt", "best.ckpt")]
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        return "no checkpoint was saved yet: start again"
    run = checkpoints.parent
    # A run that was resumed before may have been resumed with other settings.
    configs = [run / name for name in ("config_fit.yaml", "config.yaml")]
    config = next((path for path in configs if path.exists()), configs[-1])
    return f"to resume: python -m tera_pl fit --config {config} --ckpt_path {path}"


def stopped_by_disk(error: OSError, checkpoints: Path) -> RunStoppedError:
    """Describe a file that could not be written, with the command that resumes the run.

    Args:
        error: The system's error.
        checkpoints: Checkpoint folder inside the run directory.

    Returns:
        The error to raise.
    """
    return RunStoppedError(f"{describe_disk_error(error)}; {resume_command(checkpoints)}")
