"""Write checkpoints to the disk and read them."""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from packaging.version import InvalidVersion, Version

from tera_pl.checkpointing.atomic_writes import open_atomically
from tera_pl.checkpointing.checksums import digest_entries
from tera_pl.checkpointing.resume_command import stopped_by_disk
from tera_pl.errors import UserError

# Key of a checkpoint under which the digests of all other entries are stored.
DIGESTS = "tera_pl_digests"
WHAT_TO_DO = "use another checkpoint of the run"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write checkpoints atomically, with checksums; verify them, and execute nothing, on loading.

    Lightning writes to the system's temporary folder and moves the file. If the run is on another
    disk, the move is a copy, which can be interrupted; and Lightning does not call fsync. torch
    does not verify the checksums of its format.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Save a checkpoint with a digest of every entry.

        Args:
            checkpoint: Tensors and plain values.
            path: The file.
            storage_options: Not used.

        Raises:
            UserError: If the checkpoint holds other objects than tensors and plain values.
            RunStoppedError: If the disk is full.
        """
        checkpoint = checkpoint | {DIGESTS: digest_entries(checkpoint)}
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        try:
            with open_atomically(Path(path)) as file:
                torch.save(checkpoint, file)
        except OSError as error:
            raise stopped_by_disk(error, Path(path).parent) from error

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint file; Lightning would remove a folder as well."""
        if "://" in str(path):
            super().remove_checkpoint(path)
        elif Path(path).suffix == ".ckpt" and Path(path).is_file():
            Path(path).unlink()

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load a checkpoint and verify its content.

        Args:
            path: The file.
            map_location: Device of its tensors.
            weights_only: Only True is accepted, and the default.

        Returns:
            The saved tensors and plain values.

        Raises:
            UserError: If the file is damaged, holds other objects than tensors and plain values,
                or was not written by this class.
        """
        assert weights_only is not False, "nothing from a checkpoint is executed"
        try:
            checkpoint = super().load_checkpoint(path, map_location, weights_only=True)
        # For a damaged file, torch's reader raises many types of exceptions.
        except Exception as error:
            raise UserError(f"ckpt_path: {path} {_describe(error)}: {WHAT_TO_DO}") from error
        return _verify(checkpoint, path)


def _describe(error: Exception) -> str:
    """Describe why a file cannot be read, without torch's advice to execute what is in it."""
    if isinstance(error, pickle.UnpicklingError):
        named = re.search(r"(?:GLOBAL|class|function) ([\w.]{1,100})", str(error))
        name = f" ({named[1]})" if named else ""
        return f"is damaged, or holds more than tensors and plain values{name}; nothing was run"
    reason = getattr(error, "strerror", None) or str(error).strip().split("\n")[0][:200]
    reason = reason or type(error).__name__
    return f"is cut off or damaged ({reason})"


def _verify(checkpoint: Any, path: Any) -> dict[str, Any]:
    """Compare the content with the digests that were saved with it."""
    if not isinstance(checkpoint, Mapping) or not isinstance(checkpoint.get(DIGESTS), Mapping):
        raise UserError(
            f"ckpt_path: {path} has no checksums: it was not written by this version of tera_pl. "
            "Use a checkpoint of one of its runs; load an adapter with peft, a base model with "
            "model.init_args.backbone.path"
        )
    content = {key: value for key, value in checkpoint.items() if key != DIGESTS}
    saved = checkpoint[DIGESTS]
    try:
        found = digest_entries(content)
    # A tensor of a damaged file may be unreadable.
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"ckpt_path: {path} is damaged ({reason}): {WHAT_TO_DO}") from error
    if changed := [name for name in found if name in saved and saved[name] != found[name]]:
        raise UserError(
            f"ckpt_path: {path} is damaged or was edited: {', '.join(_worst(changed))} differ from "
            f"what was saved ({len(changed)} entries in all): {WHAT_TO_DO}"
        )
    if different := saved.keys() ^ found.keys():
        raise UserError(
            f"ckpt_path: {path} is damaged or was edited: {', '.join(_worst(different))} missing "
            f"or added since it was saved ({len(different)} entries in all): {WHAT_TO_DO}"
        )
    if "state_dict" in content:
        check_version(content, path)
    return content


def check_version(checkpoint: Mapping[str, Any], path: Any) -> None:
    """Refuse a checkpoint without the version of Lightning, which its migration needs.

    Args:
        checkpoint: The content.
        path: The file.

    Raises:
        UserError: If the version is missing or unreadable.
    """
    version = checkpoint.get("pytorch-lightning_version")
    try:
        Version(version if isinstance(version, str) else "")
    except InvalidVersion:
        raise UserError(
            f"ckpt_path: {path} has pytorch-lightning_version {version!r}: {WHAT_TO_DO}"
        ) from None


def _worst(names: Any) -> list[str]:
    """Name up to three entries."""
    return sorted(map(str, names))[:3]
