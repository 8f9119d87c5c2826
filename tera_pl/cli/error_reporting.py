"""Report user errors and stopped runs in one line, with an exit code."""

import os
import sys
import threading
import time
from collections.abc import Callable

from lightning.fabric.utilities.exceptions import MisconfigurationException

from tera_pl.errors import RunStoppedError, describe_disk_error, is_disk_error, is_user_error
from tera_pl.extras import describe_missing

# How long another rank waits for the launcher to end before it reports its own error.
LAUNCHER_TIMEOUT_S = 10
INTERRUPTED = 130  # as in shells: 128 plus the number of SIGINT


def guard(run: Callable[[], int]) -> int:
    """Run a command; report user errors and stops in one line on stderr.

    Internal errors keep their traceback. Set `TERA_PL_DEBUG=1` to see the traceback of every error.

    Args:
        run: The command; returns its exit code.

    Returns:
        The exit code of the command, 2 after a user error, 1 if the run was stopped, or 130 if it
        was interrupted and could not stop in order.
    """
    parent = os.getppid()
    before = threading.excepthook
    # TensorBoard writes in a thread; the next logged value raises the same error in this one.
    threading.excepthook = lambda args: None if is_disk_error(args.exc_value) else before(args)
    try:
        return run()
    except RunStoppedError as error:
        if os.environ.get("TERA_PL_DEBUG"):
            raise
        return _report("stopped", str(error), 1, parent)
    except OSError as error:
        if os.environ.get("TERA_PL_DEBUG") or not is_disk_error(error):
            raise
        return _report("stopped", _describe_stop(error), 1, parent)
    except Exception as error:
        message = _user_message(error)
        if os.environ.get("TERA_PL_DEBUG") or message is None:
            raise
        return _report("error", message, 2, parent)
    except (KeyboardInterrupt, SystemExit) as error:
        # Lightning turns a KeyboardInterrupt into a SystemExit.
        cause = error if isinstance(error, KeyboardInterrupt) else error.__context__
        if os.environ.get("TERA_PL_DEBUG") or not isinstance(cause, KeyboardInterrupt):
            raise
        notes = getattr(cause, "__notes__", ())
        return _report("stopped", "; ".join(["interrupted", *notes]), INTERRUPTED, parent)
    finally:
        threading.excepthook = before


def _user_message(error: Exception) -> str | None:
    """Give the line for an error that a user can correct, or None for an internal error."""
    if isinstance(error, ModuleNotFoundError) and (missing := describe_missing(error.name or "")):
        return f"this command needs {missing}"
    return str(error) if is_user_or_configuration_error(error) else None


def _describe_stop(error: OSError) -> str:
    """Describe the first disk error of a chain: closing TensorBoard on a full disk raises another.

    The notes of an error are those of `Interruption`: how to resume.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, RunStoppedError):
            return str(cause)
        if isinstance(cause, OSError) and hasattr(cause, "__notes__"):
            return "; ".join([describe_disk_error(cause), *cause.__notes__])
        cause = cause.__context__
    return describe_disk_error(error)


def _report(kind: str, message: str, code: int, parent: int) -> int:
    """Write one line and return the code.

    Every rank may have an error of its own. The other ranks that rank 0 launched write nothing if
    it ends: it has reported the error.
    """
    rank = os.environ.get("LOCAL_RANK", "0")
    if rank != "0" and _launcher_ends(parent):
        return code
    process = "" if rank == "0" else f" (process {rank})"
    sys.stderr.write(f"{kind}{process}: {' '.join(message.split())}\n")
    return code


def _launcher_ends(parent: int) -> bool:
    """Wait for the process that started this one to end."""
    end = time.monotonic() + LAUNCHER_TIMEOUT_S
    while time.monotonic() < end and os.getppid() == parent:
        time.sleep(0.05)
    return os.getppid() != parent


def is_user_or_configuration_error(error: BaseException) -> bool:
    """Check whether an error was raised on purpose for invalid input, here or by Lightning.

    Args:
        error: The exception.

    Returns:
        False for every other error: an internal error, which keeps its traceback.
    """
    return isinstance(error, MisconfigurationException) or is_user_error(error)
