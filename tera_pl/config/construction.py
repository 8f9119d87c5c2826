"""Instantiate the objects of a configuration; report refused arguments with their YAML key."""

import re
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NoReturn

from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException

from tera_pl.config.keys import find_key
from tera_pl.errors import UserError, is_user_error

# Their constructors raise `UserError` on purpose; any other exception is an internal error.
OWN_PACKAGES = {"tera_pl", "datamodules"}
# Exceptions whose message is clear without the name of their type.
_PLAIN_ERRORS = (ValueError, TypeError, ImportError, RuntimeError, NotImplementedError)
_MAX_MESSAGE = 400


class Builder:
    """Instantiates objects and adds the YAML key of an object to what its constructor raises.

    jsonargparse tries the types of a union one after the other and reports all failures in one text
    of a hundred lines: use it within `first_failure`.

    Args:
        config: The parsed configuration.
    """

    def __init__(self, config: Namespace) -> None:
        self.config = config

    def __call__(self, build: Callable[..., Any], cls: type, *args: Any, **kwargs: Any) -> Any:
        """Instantiate an object.

        Args:
            build: Called with the class and its arguments; returns the object.
            cls: The class that the configuration names.
            *args: Its positional arguments.
            **kwargs: Its keyword arguments.

        Returns:
            The object.

        Raises:
            UserError: If a library's class raises any exception, or one of this project a
                `UserError`.
        """
        try:
            return build(cls, *args, **kwargs)
        except Exception as error:  # noqa: BLE001 - raised again, with its key
            self._fail(cls, kwargs, error)

    def _fail(self, cls: type, settings: dict[str, Any], error: Exception) -> NoReturn:
        failure = error
        on_purpose = is_user_error(error) or isinstance(error, MisconfigurationException)
        if on_purpose or not is_own(cls):
            key, below = find_key(self.config, cls, settings) or (cls.__name__, cls.__name__)
            failure = name_error(error, f"{key} ({cls.__name__})", below, settings)
        if failure is not error:
            failure.__cause__ = error
        fail(failure)


@dataclass
class _Construction:
    config: Namespace
    failures: list[Exception] = field(default_factory=list)


_current: ContextVar[_Construction | None] = ContextVar("_current", default=None)


@contextmanager
def first_failure(config: Namespace) -> Iterator[None]:
    """Raise the first exception that was passed to `fail`, even if jsonargparse caught it.

    Args:
        config: The configuration whose objects are instantiated.

    Yields:
        Nothing.

    Raises:
        Exception: The first failure; without a failure, any other exception.
    """
    construction = _Construction(config)
    token = _current.set(construction)
    try:
        yield
    except Exception:
        if not construction.failures:
            raise
    finally:
        _current.reset(token)
    if construction.failures:
        raise construction.failures[0]


def fail(failure: Exception) -> NoReturn:
    """Raise an exception that jsonargparse may catch, so that `first_failure` still finds it.

    Args:
        failure: The exception.

    Raises:
        Exception: The exception.
    """
    if (construction := _current.get()) is not None:
        construction.failures.append(failure)
    raise failure


def current_config() -> Namespace | None:
    """Give the configuration of the enclosing `first_failure`, or None."""
    construction = _current.get()
    return None if construction is None else construction.config


def is_own(cls: type) -> bool:
    """Check whether a class is one of this project, which raises `UserError` on purpose."""
    return cls.__module__.partition(".")[0] in OWN_PACKAGES


def name_error(error: Exception, key: str, below: str, settings: Container[str]) -> UserError:
    """Convert an exception about the settings of an object to a user error that names their key.

    Args:
        error: The exception.
        key: Key of the object, as the message names it.
        below: Key above its settings.
        settings: Names of its settings; the first word of a `UserError` may be one of them.

    Returns:
        The error to raise.
    """
    first = re.match(r"(?:\w+\.)*(\w+)", str(error))
    if is_user_error(error) and first is not None and first[1] in settings:
        return UserError(f"{below}.{first[1]}{str(error)[first.end() :]}")
    return UserError(f"{key}: {describe(error)}")


@contextmanager
def user_errors(key: str) -> Iterator[None]:
    """Convert exceptions of a library about its settings to user errors.

    Args:
        key: The YAML key of those settings.

    Yields:
        Nothing.

    Raises:
        UserError: For any exception; a `UserError` is raised unchanged.
    """
    try:
        yield
    except Exception as error:
        if is_user_error(error):
            raise
        raise UserError(f"{key}: {describe(error)}") from error


def describe(error: BaseException) -> str:
    """Shorten the message of a library's exception to one line.

    Args:
        error: The exception.

    Returns:
        The message; after the name of the type where the message alone is not clear.
    """
    text = " ".join(str(error).split())
    if len(text) > _MAX_MESSAGE:
        text = f"{text[:_MAX_MESSAGE]} ..."
    plain = isinstance(error, (*_PLAIN_ERRORS, MisconfigurationException))
    return text if text and plain else f"{type(error).__name__}{': ' if text else ''}{text}"
