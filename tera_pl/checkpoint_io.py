"""How checkpoints get to the disk and back."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from tera_pl.errors import UserError
from tera_pl.stopped import stopped_by
from tera_pl.whole_files import open_whole

# What torch raises for a file that is cut off, damaged or of another kind; OSError for a place in
# it that is not there.
UNREADABLE = (OSError, RuntimeError, pickle.UnpicklingError, EOFError, zipfile.BadZipFile, KeyError)


class WholeCheckpointIO(TorchCheckpointIO):
    """Write checkpoints whole or not at all, and execute nothing that is in one.

    Lightning writes to the system's folder for temporary files and moves the file from there, which
    is a copy, and can be half one, where the run lies on another disk; and does not wait until it
    is on the disk.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Save a checkpoint on this machine's disks.

        Args:
            checkpoint: Tensors and plain values.
            path: Where to.
            storage_options: Not used.

        Raises:
            RunStoppedError: If the disk is full.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        try:
            with open_whole(Path(path)) as file:
                torch.save(checkpoint, file)
        except OSError as error:
            raise stopped_by(error, Path(path).parent) from error

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load a checkpoint.

        Args:
            path: Where from.
            map_location: Device of its tensors.
            weights_only: Only True is accepted, and the default.

        Returns:
            What was saved.

        Raises:
            UserError: If the file is damaged, or holds more than tensors and plain values.
        """
        assert weights_only is not False, "nothing from a checkpoint is executed"
        try:
            return super().load_checkpoint(path, map_location, weights_only=True)
        except UNREADABLE as error:
            reason = str(error).strip().split("\n")[0][:200]
            raise UserError(
                f"ckpt_path: {path} is cut off, damaged, or holds more than tensors and plain "
                f"values ({reason}): use another checkpoint of the run"
            ) from error
