"""Files and folders that are there whole or not at all."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def open_whole(path: Path) -> Iterator[BinaryIO]:
    """Open a file to write that takes its name only when all of it is on the disk.

    It is written beside its place, flushed to the disk and renamed, so a kill or a power cut at any
    moment leaves the older file or the new one. After an error nothing is left of it.

    Args:
        path: Where to; its folder is made if needed.

    Yields:
        A binary file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _part_of(path)
    try:
        with part.open("wb") as file:
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


def write_whole(path: Path, text: str) -> None:
    """Write a text file so that a reader or a kill never meets half of it.

    Args:
        path: Where to; its folder is made if needed.
        text: What.
    """
    with open_whole(path) as file:
        file.write(text.encode("utf-8"))


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Fill a folder that takes its name only when all of it is on the disk.

    Two folders cannot change places in one step: for a moment there is none of that name, and what
    was there before lies beside it as `<name>.old`.

    Args:
        path: Where to; a folder that is there already is replaced.

    Yields:
        An empty folder beside it.
    """
    part, old = _part_of(path), path.with_name(f"{path.name}.old")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        yield part
        for file in part.rglob("*"):
            _sync(file)
        shutil.rmtree(old, ignore_errors=True)
        if path.exists():
            path.rename(old)
        part.rename(path)
    except BaseException as error:
        shutil.rmtree(part, ignore_errors=True)
        _raise_from_disk(error, path)
        raise
    _sync_folder(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def _part_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _raise_from_disk(error: BaseException | None, path: Path) -> None:
    """Raise what the system said, with the file it said it of, where libraries hide it.

    torch raises another error over it, safetensors and tokenizers put its number into a text.
    """
    cause = error
    while cause is not None:
        number = re.search(r"\(os error (\d+)\)", str(cause))
        code = cause.errno if isinstance(cause, OSError) else int(number[1]) if number else None
        if code is not None:
            raise OSError(code, os.strerror(code), str(path)) from error
        cause = cause.__context__


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(path: Path) -> None:
    """Put a new name on the disk, where the system can do that."""
    with suppress(OSError):
        _sync(path)
