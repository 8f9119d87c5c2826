"""Atomic writes of files and folders.

These functions delete, replace and rename only files that this process made under a unique name,
that lie in a folder that this program owns, or that a marker file lists as written by this program.
`tests/checkpointing/test_destructive_calls.py` lists every other such call with its reason.
"""

import errno
import json
import os
import re
import secrets
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from tera_pl.checkpointing.markers import (
    MARKER,
    check_written,
    files_of,
    refusal,
    write_marker,
    written_files,
)
from tera_pl.errors import DISK_ERRORS, UserError, is_user_error

# Characters of a name that its temporary name keeps: file systems limit the length.
LONGEST_PREFIX = 60
OVERWRITE_HELP = "replace the folder, if this program wrote it and nothing was added to it"


@contextmanager
def open_atomically(path: Path) -> Iterator[BinaryIO]:
    """Write a file atomically: temporary file, fsync, rename.

    A kill or a power cut at any moment leaves the older file or the new one, and perhaps a
    `<name>.<random>.part` beside it. An error leaves no such file.

    Args:
        path: The file to write, in a folder that this program owns; the folder is created if
            missing, and a file of this name is replaced.

    Yields:
        A binary file.

    Raises:
        UserError: If the path cannot be written.
        OSError: If the disk is full or fails.
    """
    part = path.with_name(f"{path.name[:LONGEST_PREFIX]}.{secrets.token_hex(4)}.part")
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        opened = part.open("xb")
    except OSError as error:
        raise refusal(error, path) from error
    try:
        with opened as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException as error:
        with suppress(OSError):
            part.unlink()
        _raise_from_disk(error, path)
        raise
    _sync_folder(path.parent)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file atomically, as `open_atomically` does.

    Args:
        path: The file to write.
        text: Its content.
    """
    with open_atomically(path) as file:
        file.write(text.encode("utf-8"))


@contextmanager
def atomic_folder(path: Path, kind: str, *, replace: bool = False) -> Iterator[Path]:
    """Write a folder atomically: it is filled under a temporary name and then renamed.

    The temporary folder is `<name>.<random>.part/new` in the same parent folder. A folder that is
    replaced is moved to `<name>.<random>.part/old` first, because two folders cannot be exchanged
    in one step: after a kill between the two renames both exist, and the next call warns.

    Args:
        path: The folder to write: missing, empty or, with `replace`, one that this program wrote.
        kind: Its kind, for its marker file: a folder of another kind is not replaced.
        replace: Whether to replace a folder of this kind. It must hold no added files.

    Yields:
        An empty folder to fill.

    Raises:
        UserError: If the path holds something else, or cannot be written.
        OSError: If the disk is full or fails.
    """
    path = check_target(path, kind, replace=replace)
    _warn_of_leftovers(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix = f"{path.name[:LONGEST_PREFIX]}."
        temporary = Path(tempfile.mkdtemp(prefix=prefix, suffix=".part", dir=path.parent))
    except OSError as error:
        raise refusal(error, path) from error
    new, old = temporary / "new", temporary / "old"
    try:
        new.mkdir()
        yield new
        files = sorted(p.relative_to(new).as_posix() for p in new.rglob("*") if not p.is_dir())
        write_marker(new, kind, {"files": files})
        for file in new.rglob("*"):
            _sync(file)
        _change_places(new, path, old, kind, replace=replace)
    except BaseException as error:
        _drop(temporary, old, path)
        _raise_from_disk(error, path)
        raise
    _sync_folder(path.parent)
    if old.exists():
        _remove_written(old)
    with suppress(OSError):  # files that were added meanwhile stay
        temporary.rmdir()


def check_target(path: Path, kind: str, *, replace: bool) -> Path:
    """Check that a folder may be written, before the work whose result it will hold.

    Args:
        path: The folder.
        kind: Its kind, as for `atomic_folder`.
        replace: Whether a folder that this program wrote is replaced.

    Returns:
        The folder.

    Raises:
        UserError: If it holds files that this program did not write, or may not replace.
    """
    path = path.resolve() if path.name in {"", ".."} else path
    if path.is_symlink():
        raise UserError(f"{path} is a symbolic link: name the folder itself, or another")
    try:
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            if path.is_mount() or path.resolve() == Path.cwd():
                raise UserError(
                    f"{path} is the current folder or a mount point: name a folder in it"
                )
            _check_parent(path)
            return path
    except OSError as error:
        raise refusal(error, path) from error
    if not path.is_dir():
        raise UserError(f"{path} exists and is not a folder: choose another name")
    if not replace:
        raise UserError(f"{path} is not empty: choose another folder, or --overwrite")
    if path.is_mount() or path.resolve() in {Path.cwd(), *Path.cwd().parents}:
        raise UserError(f"{path} is the current folder or holds it: choose another")
    check_written(path, path, kind)
    return path


def _check_parent(path: Path) -> None:
    """Refuse a parent folder that cannot be written, before hours of work."""
    above = next(parent for parent in path.parents if parent.exists())
    if not above.is_dir():
        raise UserError(f"cannot write {path}: {above} is not a folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise UserError(f"cannot write {path}: {above} is read-only")


def _change_places(new: Path, path: Path, old: Path, kind: str, *, replace: bool) -> None:
    """Rename a folder to its final name; an existing folder is moved to `old`."""
    if replace and path.is_dir() and any(path.iterdir()):
        with suppress(FileNotFoundError):  # another process replaces it at the same moment
            path.rename(old)
            check_written(old, path, kind)
    try:
        # The system refuses the rename if `path` is a folder that is not empty.
        new.rename(path)
    except OSError as error:
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
            raise UserError(f"{path}: something was put there meanwhile: it stays") from error
        raise


def _drop(temporary: Path, old: Path, path: Path) -> None:
    """Remove the unfinished folder; move the folder that was to be replaced back."""
    if old.exists():
        try:
            old.rename(path)
        except OSError:
            warnings.warn(f"{old} is what was {path}: it stays there", stacklevel=4)
            return
    shutil.rmtree(temporary, ignore_errors=True)


def _remove_written(folder: Path) -> None:
    """Remove the files that a folder's marker names, and the folders that become empty."""
    marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    for name in files_of(folder) & written_files(marker):
        (folder / name).unlink()
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            with suppress(OSError):
                path.rmdir()
    with suppress(OSError):
        folder.rmdir()


def _warn_of_leftovers(path: Path) -> None:
    pattern = re.compile(re.escape(path.name[:LONGEST_PREFIX]) + r"\.[a-z0-9_]{8}\.part")
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    for left in sorted(p for p in beside if pattern.fullmatch(p.name)):
        parts = [f"{p.name} ({_describe_part(p)})" for p in sorted(left.iterdir())]
        warnings.warn(
            f"{left} is there: a write of {path} was killed, or is under way. It holds "
            f"{' and '.join(parts) or 'nothing'}, and can be removed if no process writes it",
            stacklevel=4,
        )


def _describe_part(part: Path) -> str:
    if part.name == "old":
        return "what was to be replaced"
    return "complete" if (part / MARKER).is_file() else "incomplete"


def _raise_from_disk(error: BaseException | None, path: Path) -> None:
    """Raise a disk error that a library has hidden, with the file.

    torch raises another error from it; safetensors and tokenizers put its number into a text.
    """
    cause = error
    while cause is not None:
        if is_user_error(cause):
            return
        number = re.search(r"\(os error (\d+)\)", str(cause))
        code = cause.errno if isinstance(cause, OSError) else int(number[1]) if number else None
        if code is not None and code in DISK_ERRORS:
            raise OSError(code, os.strerror(code), str(path)) from error
        cause = cause.__context__


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(path: Path) -> None:
    """Call fsync on a folder, where the system supports it, so that a new name is on the disk."""
    with suppress(OSError):
        _sync(path)
