"""Report user errors and stopped runs in one line, with an exit code."""

import os
import sys
import threading
import time
from collections.abc import Callable

from lightning.fabric.utilities.exceptions import MisconfigurationException

from tera_pl.errors import DISK_ERRORS, RunStoppedError, describe_disk_error, is_user_error

# How long a process waits before it reports what rank 0 may be reporting.
SECONDS_TO_WAIT = 10
INTERRUPTED = 130  # as in shells: 128 plus the number of SIGINT


def guard(run: Callable[[], int]) -> int:
    """Run something; tell a mistake in arguments, configuration or data in one line on stderr.

    Args:
        run: What to run.

    Returns:
        What it returns, 2 after a mistake, 1 if the run was stopped, or 130 if it was interrupted
        before it could stop in order. Set `TERA_PL_DEBUG=1` to see the traceback.
    """
    parent = os.getppid()
    before = threading.excepthook
    # TensorBoard's thread; the next value that is logged raises the same in this one.
    threading.excepthook = lambda args: None if _is_disk(args.exc_value) else before(args)
    try:
        return run()
    except RunStoppedError as error:
        if os.environ.get("TERA_PL_DEBUG"):
            raise
        return _tell("stopped", str(error), 1, parent)
    except OSError as error:
        if os.environ.get("TERA_PL_DEBUG") or not _is_disk(error):
            raise
        return _tell("stopped", _describe_stop(error), 1, parent)
    except Exception as error:
        if os.environ.get("TERA_PL_DEBUG") or not is_user_or_configuration_error(error):
            raise
        return _tell("error", str(error), 2, parent)
    except (KeyboardInterrupt, SystemExit) as error:
        # Lightning makes an exit of an interrupt.
        cause = error if isinstance(error, KeyboardInterrupt) else error.__context__
        if os.environ.get("TERA_PL_DEBUG") or not isinstance(cause, KeyboardInterrupt):
            raise
        notes = getattr(cause, "__notes__", ())
        return _tell("stopped", "; ".join(["interrupted", *notes]), INTERRUPTED, parent)
    finally:
        threading.excepthook = before


def _describe_stop(error: BaseException) -> str:
    """Tell what stopped the run first: closing TensorBoard on a full disk fails once more."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, RunStoppedError):
            return str(cause)
        # The notes are those of `Interruption`: how to go on.
        if isinstance(cause, OSError) and hasattr(cause, "__notes__"):
            return "; ".join([describe_disk_error(cause), *cause.__notes__])
        cause = cause.__context__
    assert isinstance(error, OSError)
    return describe_disk_error(error)


def _is_disk(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno in DISK_ERRORS


def _tell(what: str, message: str, code: int, parent: int) -> int:
    """Write one line; each process of several has its own, for another may have met no error."""
    rank = os.environ.get("LOCAL_RANK", "0")
    if rank != "0" and _parent_ends(parent):
        return code
    process = "" if rank == "0" else f" (process {rank})"
    sys.stderr.write(f"{what}{process}: {' '.join(message.split())}\n")
    return code


def _parent_ends(parent: int) -> bool:
    """Wait for the process that started this one: if it ends of itself, it has told the same."""
    end = time.monotonic() + SECONDS_TO_WAIT
    while time.monotonic() < end and os.getppid() == parent:
        time.sleep(0.05)
    return os.getppid() != parent


def is_user_or_configuration_error(error: BaseException) -> bool:
    """Check whether an error was raised on purpose for invalid input, here or by Lightning.

    Args:
        error: What was raised.

    Returns:
        False for everything else, which is a defect and deserves its traceback.
    """
    return isinstance(error, MisconfigurationException) or is_user_error(error)
