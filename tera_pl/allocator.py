"""Keep freed memory in the process, so that computing on a CPU does not wait for page faults.

glibc gives a large block back to the system when it is freed, and the next step gets it again page
by page, each page filled with zeros. Activations and gradients are such blocks.
"""

import ctypes
import os
from typing import Any

from tera_pl.errors import UserError

SWITCH = "TERA_PL_KEEP_FREED_MEMORY"
# Names and values of glibc's malloc.h: all blocks from the heap; no end of the heap is given back;
# the heap grows by so much more than is asked for that the heaps of other threads (64 MB each) stay
# too. What is not yet used of it takes no memory.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
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
    return not replaced and all(mallopt(*setting) for setting in _SETTINGS)


def _is_configured() -> bool:
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    return "glibc.malloc" in tunables or any(name.startswith("MALLOC_") for name in os.environ)


def _address(function: Any) -> int | None:
    return ctypes.cast(function, ctypes.c_void_p).value
