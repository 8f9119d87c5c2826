"""Progress lines of long work, on a terminal only."""

import sys
import threading
import time
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import TypeVar

from rich.console import Console
from rich.progress import track as rich_track

T = TypeVar("T")
# On stderr: what a command prints can be written to a file. One for all, so that progress lines can
# be nested.
CONSOLE = Console(stderr=True)


def track(items: Sequence[T], description: str) -> Iterable[T]:
    """Iterate with a progress line that estimates the time left.

    Args:
        items: What to iterate over.
        description: What is done, for the line.

    Returns:
        The items. The line disappears at the end; a file gets none.
    """
    return rich_track(
        items, description, console=CONSOLE, transient=True, disable=not CONSOLE.is_terminal
    )


class Pace:
    """Estimates the time left from the mean time of what is done.

    Args:
        done: What was done before the clock starts.
        total: The goal, or None if it is unknown.
    """

    def __init__(self, done: float, total: float | None) -> None:
        self.total = total
        self._first = done
        self._start = time.monotonic()

    def elapsed(self) -> str:
        """Give the time since the start."""
        return as_duration(time.monotonic() - self._start)

    def left(self, done: float) -> str:
        """Estimate the time left.

        Args:
            done: What is done.

        Returns:
            For example `0:01:20 left`; empty if nothing is done yet or the goal is unknown.
        """
        if self.total is None or done <= self._first:
            return ""
        seconds = (time.monotonic() - self._start) / (done - self._first) * (self.total - done)
        return f"{as_duration(seconds)} left"


def as_duration(seconds: float) -> str:
    """Format a duration.

    Args:
        seconds: Its length.

    Returns:
        Hours, minutes and seconds.

    Example:
        >>> as_duration(83.4)
        '0:01:23'
    """
    return str(timedelta(seconds=round(seconds)))


class Steps:
    """Report finished steps on stderr, one line each, with the time left; threads may share it.

    Args:
        total: Number of steps.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._pace = Pace(0, total)
        self._lock = threading.Lock()

    def report(self, text: str) -> None:
        """Report a step.

        Args:
            text: What it was.
        """
        with self._lock:
            self._done += 1
            left = f", {self._pace.left(self._done)}" if self._done < self._total else ""
            sys.stderr.write(f"{self._done}/{self._total} {text}{left}\n")
