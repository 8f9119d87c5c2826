"""Freed memory stays in the process: the kernel's count of page faults says so."""

import ctypes
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tera_pl import allocator
from tera_pl.errors import UserError

# Ten blocks of 64 MB, one after the other, as a step frees and takes its activations: larger than
# any block that glibc keeps by itself. Prints what was answered, and the page faults of the last.
SCRIPT = """
import resource
from tera_pl.allocator import keep_freed_memory
kept = keep_freed_memory()
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    before = faults()
    block = b"x" * (64 << 20)
    del block
print(int(kept), faults() - before)
"""
# 16,384 pages of 4 kB, or 32 of 2 MB where the system gives huge pages unasked.
MANY, FEW = 30, 8


def output(script, root, **variables):
    """Run a script in a process whose environment chooses no allocator but by `variables`."""
    chosen = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD", allocator.SWITCH)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(chosen)}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**environment, "PYTHONPATH": str(root), **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def run(root, **variables):
    """What `SCRIPT` prints."""
    kept, faults = map(int, output(SCRIPT, root, **variables).split())
    return bool(kept), faults


glibc_only = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")


@glibc_only
def test_freed_memory_comes_back_without_page_faults(root):
    kept, faults = run(root)
    assert kept
    assert faults <= FEW
    kept, faults = run(root, TERA_PL_KEEP_FREED_MEMORY="0")
    assert not kept
    assert faults >= MANY


HUGE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")
HEAP = """
from pathlib import Path
from tera_pl.allocator import keep_freed_memory
keep_freed_memory()
block = b"x" * (64 << 20)
heap = Path("/proc/self/smaps").read_text().partition("[heap]")[2].partition("AnonHugePages:")[2]
print(heap.split()[0])
"""


@glibc_only
@pytest.mark.skipif(
    not HUGE.exists() or "[never]" in HUGE.read_text(), reason="needs transparent huge pages"
)
@pytest.mark.skipif(
    not OVERCOMMIT.exists() or OVERCOMMIT.read_text().strip() == "2", reason="memory is reserved"
)
def test_the_heap_has_huge_pages(root):
    """Half of a new block at least, as the kernel counts it: it may lack free pages of 2 MB."""
    assert int(output(HEAP, root)) >= 32 << 10  # kB


@glibc_only
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MALLOC_TOP_PAD_", "131072"),
        ("MALLOC_ARENA_MAX", "2"),
        ("GLIBC_TUNABLES", "glibc.malloc.top_pad=131072"),
    ],
)
def test_what_the_environment_chooses_stays(root, name, value):
    kept, faults = run(root, **{name: value})
    assert not kept
    assert faults >= MANY


@glibc_only
@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a C compiler")
def test_another_allocator_is_left_alone(root, tmp_path):
    """A library that replaces `malloc`, as jemalloc and tcmalloc do when they are preloaded."""
    source = tmp_path / "other.c"
    source.write_text(
        "#include <stddef.h>\nextern void *__libc_malloc(size_t);\n"
        "void *malloc(size_t size) { return __libc_malloc(size); }\n"
    )
    library = tmp_path / "other.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    assert run(root, LD_PRELOAD=str(library))[0] is False


def test_nothing_happens_without_glibc(monkeypatch):
    def load(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(allocator, "_is_configured", lambda: False)
    monkeypatch.setattr(ctypes, "CDLL", load)
    assert allocator.keep_freed_memory() is False


def test_switch_is_0_or_1(monkeypatch):
    monkeypatch.setenv(allocator.SWITCH, "no")
    with pytest.raises(UserError, match=r"TERA_PL_KEEP_FREED_MEMORY is 'no': expected 0 or 1"):
        allocator.keep_freed_memory()
