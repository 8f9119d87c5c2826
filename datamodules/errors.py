"""Errors that are raised on purpose for data or settings that a user can correct."""


class UserError(ValueError):
    """Invalid data or settings; the message names the file and record, or the YAML key.

    `tera_pl` prints it in one line and exits with 2. The two packages do not import each other: it
    looks for the attribute `is_user_error`, which any exception may set.
    """

    is_user_error = True


class MissingFileError(UserError):
    """A data file or folder that does not exist, as opposed to one that is malformed."""
