"""Errors that end a run in one line: invalid input, and stops from outside the program."""

import errno

# No space left, quota used up, file too large for a system limit, read-only or failing disk.
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}


class UserError(ValueError):
    """Invalid input: a setting, an argument or a file.

    The message names the YAML key, the file and record or the module, says what was expected and
    what to do. The command line prints it in one line, without a traceback, and exits with 2. Every
    other exception is an internal error and keeps its traceback.
    """

    # What `is_user_error` looks for, so that packages that do not import this one can raise theirs.
    is_user_error = True


class RunStoppedError(RuntimeError):
    """A run was stopped from outside; the message gives the reason and how to resume."""


def is_user_error(error: BaseException) -> bool:
    """Check whether an error was raised on purpose for invalid input.

    Args:
        error: Any exception.

    Returns:
        True for `UserError` and for any exception whose class sets `is_user_error = True`.
    """
    return getattr(error, "is_user_error", False) is True


def is_disk_error(error: BaseException | None) -> bool:
    """Check whether the system could not write to a disk.

    Args:
        error: Any exception, or None.

    Returns:
        True for an `OSError` whose code is one of `DISK_ERRORS`.
    """
    return isinstance(error, OSError) and error.errno in DISK_ERRORS


def describe_disk_error(error: OSError) -> str:
    """Name the file that could not be written and the reason.

    Args:
        error: An error for which `is_disk_error` is true.

    Returns:
        A clause without a period.
    """
    room = ": make room" if error.errno in {errno.ENOSPC, errno.EDQUOT} else ""
    return f"cannot write {error.filename or 'a file'}: {error.strerror or error}{room}"
