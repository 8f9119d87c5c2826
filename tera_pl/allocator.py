"""Keep freed memory in the process, so that computing on a CPU does not wait for page faults.

glibc gives a large block back to the system when it is freed, and the next step gets it again page
by page, each page filled with zeros. Activations and gradients are such blocks.

Pages of 2 MB instead of 4 kB save the translation of addresses, which costs microseconds on some
virtual machines.
"""

import contextlib
import ctypes
import os
from pathlib import Path
from typing import Any

from tera_pl.errors import UserError

SWITCH = "TERA_PL_KEEP_FREED_MEMORY"
# Names and values of glibc's malloc.h: all blocks from the heap; no end of the heap is given back;
# the heap grows by so much more than is asked for that the heaps of other threads (64 MB each) stay
# too. What is not yet used of it takes no memory.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_MADV_HUGEPAGE = 14  # of Linux's mman.h
_OVERCOMMIT, _MAPS = Path("/proc/sys/vm/overcommit_memory"), Path("/proc/self/maps")
_SETTINGS = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, 2**28))


def keep_freed_memory() -> bool:
    """Let glibc's allocator reuse freed memory instead of giving it back to the system.

    It holds until the process ends, and for its forks. Nothing changes where the environment
    chooses: another allocator by `LD_PRELOAD`, `MALLOC_...`, `GLIBC_TUNABLES=glibc.malloc...`, or
    `TERA_PL_KEEP_FREED_MEMORY=0`; and nothing without glibc, as on macOS or with musl.

    Returns:
        Whether freed memory is kept.

    Raises:
        UserError: If `TERA_PL_KEEP_FREED_MEMORY` is neither 0 nor 1.
    """
    switch = os.environ.get(SWITCH, "1")
    if switch not in {"0", "1"}:
        raise UserError(f"the environment variable {SWITCH} is {switch!r}: expected 0 or 1")
    if switch == "0" or _is_configured():
        return False
    try:
        libc, process = ctypes.CDLL("libc.so.6"), ctypes.CDLL(None)
        replaced = _address(libc.malloc) != _address(process.malloc)
        mallopt = libc.mallopt
    except (OSError, AttributeError):
        return False
    if replaced or not all(mallopt(*setting) for setting in _SETTINGS):
        return False
    with contextlib.suppress(OSError):  # no /proc
        _ask_for_huge_pages(libc)
    return True


def _ask_for_huge_pages(libc: ctypes.CDLL) -> None:
    """Let the heap be of pages of 2 MB, where the system grants them to those who ask."""
    if _OVERCOMMIT.read_text(encoding="ascii").strip() == "2":
        return  # the system counts what is reserved as if it were used
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    libc.free.restype, libc.free.argtypes = None, (ctypes.c_void_p,)
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    # The heap grows at once to what a large model needs, because each later part of it would have
    # to ask again. It takes no memory before it is written to.
    libc.free(libc.malloc(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2))
    for line in _MAPS.read_text(encoding="utf-8").splitlines():
        if line.endswith("[heap]"):
            start, end = (int(address, 16) for address in line.split()[0].split("-"))
            libc.madvise(start, end - start, _MADV_HUGEPAGE)


def _is_configured() -> bool:
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    return "glibc.malloc" in tunables or any(name.startswith("MALLOC_") for name in os.environ)


def _address(function: Any) -> int | None:
    return ctypes.cast(function, ctypes.c_void_p).value
