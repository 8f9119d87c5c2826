"""Runs that stop for a reason outside the program."""

from typing import Any


class RunStoppedError(RuntimeError):
    """A run was stopped; the message says why and how to go on."""


def how_to_go_on(trainer: Any) -> str:
    """Give the command that resumes a run from its last checkpoint.

    Args:
        trainer: The trainer of the run.

    Returns:
        One sentence.
    """
    path = getattr(trainer.checkpoint_callback, "last_model_path", None)
    if not path:
        return "no checkpoint was saved yet: start again"
    run = path.rpartition("/checkpoints/")[0]
    return f"to go on: python -m tera_pl fit --config {run}/config.yaml --ckpt_path {path}"
