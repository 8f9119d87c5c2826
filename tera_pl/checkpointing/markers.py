"""Marker files of the folders that this program writes to.

Nothing is replaced or removed in a folder without a marker file.
"""

import importlib.metadata
import json
import os
from pathlib import Path
from typing import Any

from tera_pl.errors import DISK_ERRORS, UserError

MARKER = ".tera_pl"
PROGRAM = "tera_pl"


def read_marker(folder: Path, kind: str) -> dict[str, Any] | None:
    """Read the marker file of a folder.

    Args:
        folder: Any folder.
        kind: The expected kind.

    Returns:
        Its content, or None if this program did not mark the folder as of this kind.
    """
    path = folder / MARKER
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (OSError, ValueError, RecursionError):
        return None
    expected = {"program": PROGRAM, "kind": kind}
    if not isinstance(content, dict) or content | expected != content:
        return None
    return content


def claim_folder(folder: Path, kind: str, content: dict[str, Any] | None = None) -> bool:
    """Mark an empty folder as one that this program writes to.

    Args:
        folder: The folder; created if missing.
        kind: Its kind.
        content: Further entries of its marker file.

    Returns:
        Whether it is new; False if it was marked before.

    Raises:
        UserError: If it is neither empty nor marked, or cannot be written to.
    """
    if read_marker(folder, kind) is not None:
        return False
    check_unclaimed(folder, kind)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refusal(error, folder) from error
    try:
        write_marker(folder, kind, content or {})
    except FileExistsError:  # another process was faster
        return False
    except OSError as error:
        raise refusal(error, folder) from error
    return True


def mark_new_folder(folder: Path, kind: str) -> None:
    """Mark a folder for this process alone; a second process is refused.

    Args:
        folder: The folder; created if missing.
        kind: Its kind.

    Raises:
        UserError: If it is marked already, or cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_marker(folder, kind, {})
    except FileExistsError:
        raise UserError(f"{folder} holds a {kind} already: start again for another") from None
    except OSError as error:
        raise refusal(error, folder) from error


def check_unclaimed(folder: Path, kind: str) -> None:
    """Check that a folder is missing or empty, and not the current one.

    Args:
        folder: The folder.
        kind: Its future kind, for the message.

    Raises:
        UserError: If it holds something or is the current folder.
    """
    try:
        if folder.resolve() == Path.cwd():
            raise UserError(f"the current folder cannot be a {kind}: name another")
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder} is there and was not written as a {kind}: name another")
    except OSError as error:
        raise refusal(error, folder) from error


def write_marker(folder: Path, kind: str, content: dict[str, Any]) -> None:
    """Write the marker file of a folder that has none.

    Args:
        folder: The folder.
        kind: Its kind.
        content: Further entries; `files` lists the files that this program may replace.

    Raises:
        FileExistsError: If the folder has a marker file.
    """
    version = importlib.metadata.version("tera-pl")
    text = json.dumps({"program": PROGRAM, "kind": kind, "version": version, **content}, indent=2)
    with (folder / MARKER).open("x", encoding="utf-8") as file:
        file.write(text + "\n")


def check_written(folder: Path, name: Path, kind: str) -> None:
    """Check that this program wrote everything in a folder.

    Args:
        folder: The folder.
        name: Its name in messages.
        kind: The expected kind.

    Raises:
        UserError: If it has no marker file of this kind, or holds a file that is not listed there.
    """
    marker = read_marker(folder, kind)
    if marker is None:
        raise UserError(
            f"{name} was not written by this program as a {kind} (it has no {MARKER} that says "
            "so): it is not replaced, choose another folder"
        )
    added = sorted(files_of(folder) - written_files(marker))
    if added:
        raise UserError(
            f"{name} holds {added[0]}, which this program did not write: it is not replaced, "
            "move that file or choose another folder"
        )


def files_of(folder: Path) -> set[str]:
    """List the files and symbolic links below a folder; links are not followed."""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }


def written_files(marker: dict[str, Any]) -> set[str]:
    """List the files that a marker file names, itself included."""
    files = marker.get("files")
    return {MARKER, *(files if isinstance(files, list) else ())}


def refusal(error: OSError, path: Path) -> Exception:
    """Make the error for a path that cannot be written.

    Args:
        error: The system's error.
        path: The file or folder.

    Returns:
        An OSError if the disk is full or fails, which stops a run; otherwise a UserError.
    """
    if error.errno in DISK_ERRORS:
        return OSError(error.errno, os.strerror(error.errno), str(path))
    return UserError(f"cannot write {path}: {error.strerror}")
