"""Child processes that end with their parent."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from tera_pl.errors import RunStoppedError

COMMAND = (sys.executable, "-m", "tera_pl")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Subcommands that save a checkpoint at SIGTERM; others have nothing to save.
SAVING = {"fit"}
SECONDS_BETWEEN_CHECKS = 1.0


class Processes:
    """Run subcommands in several processes at the same time, and stop all of them at a signal.

    At the first signal each `fit` finishes its step and saves a checkpoint, others are killed; at
    the second signal all are killed. Each process has a process group of its own, so that Ctrl-C in
    a terminal signals it only once, and its own child processes end with it.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._live: dict[subprocess.Popen, str] = {}
        self._lock = threading.RLock()

    def call(
        self,
        subcommand: str,
        arguments: list[str],
        folder: Path,
        lock: int,
        is_hopeless: Callable[[], bool] | None = None,
    ) -> None:
        """Run `python -m tera_pl`; a failed run is reported on stderr.

        Args:
            subcommand: For example `fit`.
            arguments: Its arguments.
            folder: Folder of `<subcommand>.log`, to which the output is appended.
            lock: File descriptor of a lock that the process inherits.
            is_hopeless: Called every second; when it returns True, the process gets SIGTERM.

        Raises:
            RunStoppedError: If the study was stopped.
        """
        log = folder / f"{subcommand}.log"
        with log.open("ab") as output:
            with self._lock:
                self._check()
                process = subprocess.Popen(
                    [*COMMAND, subcommand, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    process_group=0,
                    pass_fds=(lock,),
                )
                self._live[process] = subcommand
            pruned = is_hopeless is not None and self._prune(process, is_hopeless)
            code = self._wait(process)
        self._check()
        if pruned:
            sys.stderr.write(f"{folder}: {subcommand} pruned\n")
            return
        outcome = f"failed ({code}), see {log}" if code else "done"
        sys.stderr.write(f"{folder}: {subcommand} {outcome}\n")

    @contextmanager
    def until_stopped(self) -> Iterator[None]:
        """Handle signals within a block, and kill all processes at its end."""
        before: dict[signal.Signals, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                # A shell ignores some of them in background jobs, and `nohup` ignores SIGHUP.
                if signal.getsignal(number) is not signal.SIG_IGN:
                    before[number] = signal.signal(number, self._handle)
        try:
            yield
        finally:
            self._stop(signal.SIGKILL, os.killpg)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _check(self) -> None:
        if self.received is not None:
            raise RunStoppedError(f"stopped by {self.received.name}")

    def _prune(self, process: subprocess.Popen, is_hopeless: Callable[[], bool]) -> bool:
        """Signal a process when it is hopeless; return False if it ends before."""
        options = os.WEXITED | os.WNOWAIT | os.WNOHANG
        while os.waitid(os.P_PID, process.pid, options) is None:
            if is_hopeless():
                process.terminate()
                return True
            time.sleep(SECONDS_BETWEEN_CHECKS)
        return False

    def _wait(self, process: subprocess.Popen) -> int:
        """Wait for a process, and kill the rest of its group before its process ID is reused."""
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with self._lock:
            del self._live[process]
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            return process.wait()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again = self.received is not None
        with self._lock:
            self.received = self.received or signal.Signals(number)
            sys.stderr.write(
                f"{signal.Signals(number).name}: runs save and end; a second signal kills them\n"
            )
            if again:
                self._stop(signal.SIGKILL, os.killpg)
            else:
                # Not its process group: its data loaders are used until it has saved.
                self._stop(signal.SIGTERM, os.kill, SAVING)
                self._stop(signal.SIGKILL, os.killpg, set(self._live.values()) - SAVING)

    def _stop(
        self,
        number: signal.Signals,
        send: Callable[[int, int], None],
        which: set[str] | None = None,
    ) -> None:
        with self._lock:
            for process, subcommand in self._live.items():
                if which is None or subcommand in which:
                    with suppress(ProcessLookupError):
                        send(process.pid, number)
