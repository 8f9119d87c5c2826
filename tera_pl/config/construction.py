"""Instantiate the objects of a configuration; report refused arguments with their YAML key."""

import inspect
import pkgutil
import re
import typing
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, NoReturn, Union, get_args, get_origin

from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException

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
        Exception: The first failure; any other exception if there is none.
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


def check_settings(settings: Namespace, expected: Mapping[str, Any]) -> None:
    """Refuse invalid settings of an object that jsonargparse accepts.

    These are a value in place of nested settings, null where the type does not allow it, and a
    function in place of a class.

    Args:
        settings: The parsed settings.
        expected: The type of each setting, by key.

    Raises:
        UserError: If a setting is invalid.
    """
    for key, typehint in expected.items():
        above = key.rpartition(".")[0]
        group = settings.get(above) if above else settings
        if not isinstance(group, Namespace | None):
            fail(UserError(f"{_full_key(above, settings)} is {group!r}: expected settings by name"))
        if not isinstance(group, Namespace) or key.rpartition(".")[2] not in group:
            continue
        value = settings.get(key)
        if value is None and not _accepts_null(typehint):
            name = getattr(typehint, "__name__", str(typehint))
            fail(UserError(f"{_full_key(key, settings)} is null: expected {name}"))
        if reason := refused_function(typehint, value):
            fail(UserError(f"{_full_key(key, settings)}: {reason}"))


def _full_key(key: str, settings: Namespace) -> str:
    """Give the key of a setting from the root of the configuration."""
    construction = _current.get()
    for above, value in _objects(construction.config, "") if construction is not None else ():
        if value.get("class_path") and value.get("init_args") == settings:
            return f"{above}.init_args.{key}"
    return key


def _accepts_null(typehint: Any) -> bool:
    if get_origin(typehint) in {Union, UnionType}:
        return any(_accepts_null(arg) for arg in get_args(typehint))
    # jsonargparse represents a type that it cannot check by an object that is not a class.
    plain = inspect.isclass(typehint) and typehint is not object and typehint is not type(None)
    return not plain and get_origin(typehint) is None


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


def find_key(config: Any, cls: type, settings: dict[str, Any]) -> tuple[str, str] | None:
    """Find the object of a configuration that has a class and settings.

    Args:
        config: The parsed configuration.
        cls: The class.
        settings: The settings; those that are objects themselves are not compared.

    Returns:
        The key of the object and the key above its settings, or None.
    """
    for key, value in _objects(config, ""):
        named = value.get("class_path")
        given = value.get("init_args") or {} if named else value
        if named and str(named).rpartition(".")[2] != cls.__name__:
            continue
        given = given if isinstance(given, dict) else vars(given)
        if not named and given.keys() - settings.keys():
            continue
        pairs = [(given[name], settings[name]) for name in given if name in settings]
        if all(repr(a) == repr(b) for a, b in pairs if _is_plain(a) and _is_plain(b)):
            return key, f"{key}.init_args" if named else key
    return None


def refused_function(typehint: Any, value: Any) -> str | None:
    """Check whether a configuration names a function in place of a class that must not be called.

    jsonargparse checks classes when it parses them, but would call a function and check the
    returned object later or never.

    Args:
        typehint: The type that a key expects.
        value: The parsed value.

    Returns:
        The reason, or None if there is no function or its annotation says that it returns the type.
    """
    if isinstance(value, list | tuple):
        return next(filter(None, (refused_function(typehint, item) for item in value)), None)
    path = value.get("class_path") if isinstance(value, Namespace | dict) else None
    if not isinstance(path, str):
        return None
    function = pkgutil.resolve_name(path)
    if inspect.isclass(function):
        return None
    expected = _classes(typehint)
    try:
        returned = _classes(typing.get_type_hints(function).get("return"))
    except (TypeError, NameError, AttributeError):
        returned = set()
    if returned and all(any(issubclass(r, e) for e in expected) for r in returned):
        return None
    names = " or ".join(sorted(cls.__name__ for cls in expected)) or "a class"
    return (
        f"{path} is not called: expected a subclass of {names}, or a function whose annotation "
        "says that it returns one"
    )


def _classes(typehint: Any) -> set[type]:
    """Collect the classes in a type; of a callable, those that it returns."""
    origin, args = get_origin(typehint), get_args(typehint)
    if origin is not None:
        relevant = args if origin in {Union, UnionType, list, set, dict, tuple} else args[-1:]
        return set().union(*(_classes(arg) for arg in relevant))
    plain = {type(None), str, int, float, bool, object}
    return {typehint} if inspect.isclass(typehint) and typehint not in plain else set()


def _objects(value: Any, key: str) -> Iterator[tuple[str, Namespace]]:
    """Iterate over the mappings of a configuration, outer ones first."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _objects(item, f"{key}[{index}]")
    elif isinstance(value, Namespace):
        if key:
            yield key, value
        below = vars(value)
        if value.get("class_path"):
            below = vars(value.get("init_args", value))
            key = f"{key}.init_args"
        for name, item in below.items():
            yield from _objects(item, f"{key}.{name}" if key else name)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return isinstance(value, str | int | float | bool | None)
