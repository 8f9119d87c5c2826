"""Runs that stop for a reason outside the program."""

import errno
from pathlib import Path
from typing import Any

# No room, quota used up, file too large for the system's limit, disk gone.
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}


class RunStoppedError(RuntimeError):
    """A run was stopped; the message says why and how to go on."""


def how_to_go_on(trainer: Any) -> str:
    """Give the command that resumes a run from its last checkpoint.

    Args:
        trainer: The trainer of the run.

    Returns:
        One sentence.
    """
    folder = getattr(trainer.checkpoint_callback, "dirpath", None)
    if folder is None:
        return "no checkpoint was saved yet: start again"
    return go_on_from(Path(folder))


def go_on_from(checkpoints: Path) -> str:
    """Give the command that resumes a run from the last checkpoint in a folder.

    Args:
        checkpoints: Folder of the run's checkpoints.

    Returns:
        One sentence.
    """
    paths = [checkpoints / name for name in ("last.ckpt", "best.ckpt")]
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        return "no checkpoint was saved yet: start again"
    run = checkpoints.parent
    # A run that went on before may have done so with other settings.
    configs = [run / name for name in ("config_fit.yaml", "config.yaml")]
    config = next((path for path in configs if path.exists()), configs[-1])
    return f"to go on: python -m tera_pl fit --config {config} --ckpt_path {path}"


def stopped_by(error: OSError, checkpoints: Path) -> RunStoppedError:
    """Tell that a file could not be written, and how to go on.

    Args:
        error: What the system said.
        checkpoints: Folder of the run's checkpoints.

    Returns:
        The error to raise.
    """
    return RunStoppedError(f"{describe_disk(error)}; {go_on_from(checkpoints)}")


def describe_disk(error: OSError) -> str:
    """Tell which file could not be written, and why."""
    room = ": make room" if error.errno in {errno.ENOSPC, errno.EDQUOT} else ""
    return f"cannot write {error.filename or 'a file'}: {error.strerror or error}{room}"
