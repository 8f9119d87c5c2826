"""Data files: found, checked to be regular, decompressed within bounds and decoded."""

import gzip
import hashlib
import os
import stat
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info

from datamodules.errors import MissingFileError, UserError

# Text compresses to a tenth or so; deflate reaches 1/1000 on a file made to fill a memory.
MAX_EXPANSION = 100
CHUNK = 2**24
# Records of JSON take about 4 times the bytes of their file.
MEMORY_PER_BYTE = 4
LARGE = 50_000_000  # bytes; reading more takes seconds, which are announced
_KINDS = (
    (stat.S_ISDIR, "directory"),
    (stat.S_ISFIFO, "FIFO"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISCHR, "device"),
    (stat.S_ISBLK, "device"),
)
_digests: ContextVar[dict[Path, str] | None] = ContextVar("digests", default=None)


@contextmanager
def record_digests() -> Iterator[dict[Path, str]]:
    """Collect the SHA-256 of every file read in the block; of a compressed file, of its content.

    Yields:
        Hexadecimal digests by path; filled while files are read.
    """
    found: dict[Path, str] = {}
    token = _digests.set(found)
    try:
        yield found
    finally:
        _digests.reset(token)


def record_digest(path: Path, data: bytes | None = None) -> None:
    """Hash a file for `record_digests`, if that is active.

    Args:
        path: The file.
        data: Its content, if it has been read already.
    """
    digests = _digests.get()
    if digests is not None and data is not None:
        digests[path] = hashlib.sha256(data).hexdigest()
    elif digests is not None:
        with path.open("rb") as file:
            digests[path] = hashlib.file_digest(file, "sha256").hexdigest()


def read_text(path: Path) -> str:
    """Read a text file.

    Args:
        path: A regular file in UTF-8, with or without a byte order mark, compressed (`.gz`) or not.

    Returns:
        Its text.

    Raises:
        UserError: If the file is missing, no regular file, damaged, not UTF-8 or too large for the
            memory of this machine.
    """
    try:
        size = check_regular(path)
        if size > LARGE:
            rank_zero_info(f"reading {path} ({size / 1e6:,.0f} MB)")
        data = _decompress(path, size) if path.name.endswith(".gz") else path.read_bytes()
        record_digest(path, data)
        return data.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise MissingFileError(f"cannot read {path}: {error.strerror}") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path} is damaged: {error}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}, byte {error.start}: not UTF-8: save the file as UTF-8") from None


def split_lines(text: str) -> list[str]:
    """Split a text at line feeds, with or without a carriage return, and at nothing else.

    `str.splitlines` splits at nine more characters, which may occur inside a line of data.
    """
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines[:-1] if lines[-1] == "" else lines


def find_file(folder: Path, names: Sequence[str]) -> Path:
    """Find the one file in a folder that matches a pattern.

    Args:
        folder: Where to look.
        names: Patterns such as `train*.json`.

    Returns:
        The file.

    Raises:
        MissingFileError: If there is none.
        UserError: If there is more than one.
    """
    found = sorted({path for name in names for path in folder.glob(name)})
    if len(found) == 1:
        return found[0]
    where = folder if folder.is_dir() else f"{folder} (no such folder)"
    expected = f"{where}: expected exactly one file {' or '.join(names)}"
    if not found:
        raise MissingFileError(f"{expected}, has none")
    raise UserError(f"{expected}, has {', '.join(path.name for path in found)}")


def check_regular(path: Path) -> int:
    """Check that a file can be read to its end; a FIFO or a device could be read for ever.

    Args:
        path: The file.

    Returns:
        Its size in bytes.

    Raises:
        UserError: If it is not a regular file, or too large for the memory of this machine.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(status.st_mode)), "special file")
        raise UserError(f"{path} is a {kind}: expected a regular file")
    _check_memory(path, status.st_size)
    return status.st_size


def _check_memory(path: Path, size: int) -> None:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size * MEMORY_PER_BYTE > memory:
        raise UserError(
            f"{path} holds {size / 1e9:.1f} GB or more: records take about {MEMORY_PER_BYTE} times "
            f"that, and this machine has {memory / 1e9:.1f} GB of memory: split the file"
        )


def _decompress(path: Path, size: int) -> bytes:
    data = bytearray()
    with gzip.open(path) as file:
        while chunk := file.read(CHUNK):
            data += chunk
            if len(data) > max(LARGE, MAX_EXPANSION * size):
                raise UserError(
                    f"{path} expands to more than {MAX_EXPANSION} times its {size:,} bytes, which "
                    "no text does: refused"
                )
            _check_memory(path, len(data))
    return bytes(data)
