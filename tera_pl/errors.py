"""Errors that are raised on purpose for input that a user can correct."""


class UserError(ValueError):
    """Invalid input: a setting, an argument or a file.

    The message names the YAML key, the file and record or the module, says what was expected and
    what to do. The command line prints it in one line, without a traceback, and exits with 2. Every
    other exception is a defect and keeps its traceback.
    """

    # What `is_user_error` looks for, so that packages that do not import this one can raise theirs.
    is_user_error = True


def is_user_error(error: BaseException) -> bool:
    """Check whether an error was raised on purpose for invalid input.

    Args:
        error: Any exception.

    Returns:
        True for `UserError` and for any exception whose class sets `is_user_error = True`.
    """
    return getattr(error, "is_user_error", False) is True
