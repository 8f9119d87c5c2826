"""How checkpoints are written to the disk and read back."""

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

# Where a checkpoint has the digests of everything else in it.
DIGESTS = "tera_pl_digests"
WHAT_TO_DO = "use another checkpoint of the run"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write checkpoints atomically, with checksums; verify them, and execute nothing, on loading.

    Lightning writes to the system's folder for temporary files and moves the file from there, which
    is a copy, and can be half one, where the run lies on another disk; and does not wait until it
    is on the disk. torch does not verify the checksums of its format.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Save a checkpoint on this machine's disks, with a digest of every entry.

        Args:
            checkpoint: Tensors and plain values.
            path: Where to.
            storage_options: Not used.

        Raises:
            UserError: If there is anything but tensors and plain values in it.
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
        """Remove a checkpoint that a better one replaces; Lightning would remove a folder too."""
        if "://" in str(path):
            super().remove_checkpoint(path)
        elif Path(path).suffix == ".ckpt" and Path(path).is_file():
            Path(path).unlink()

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load a checkpoint and verify its content.

        Args:
            path: Where from.
            map_location: Device of its tensors.
            weights_only: Only True is accepted, and the default.

        Returns:
            What was saved.

        Raises:
            UserError: If the file is damaged, holds more than tensors and plain values, or was
                not written by this class.
        """
        assert weights_only is not False, "nothing from a checkpoint is executed"
        try:
            checkpoint = super().load_checkpoint(path, map_location, weights_only=True)
        # A damaged file can make torch's reader raise anything.
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
    # What a damaged file makes of a tensor may not be one that can be read.
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
    """Refuse a checkpoint without the version of Lightning, which it migrates from.

    Args:
        checkpoint: The content.
        path: Where it is from.

    Raises:
        UserError: If there is no version, or Lightning could not read it.
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
