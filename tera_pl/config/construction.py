"""Build what a configuration describes; what a class refuses is one line that names its key."""

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

# Their constructors raise `UserError` on purpose; anything else is a defect.
OWN_PACKAGES = {"tera_pl", "datamodules"}
# What says by its message alone what is wrong; others are named.
_PLAIN_ERRORS = (ValueError, TypeError, ImportError, RuntimeError, NotImplementedError)
_MAX_MESSAGE = 400


class Builder:
    """Builds every object of a configuration; what a constructor raises gets the object's key.

    jsonargparse tries one type of a union after the other and reports every failure in one text of
    a hundred lines: build in `first_failure`.

    Args:
        config: The parsed configuration.
    """

    def __init__(self, config: Namespace) -> None:
        self.config = config

    def __call__(self, build: Callable[..., Any], cls: type, *args: Any, **kwargs: Any) -> Any:
        """Build an object.

        Args:
            build: Called with the other arguments.
            cls: The class that the configuration names.
            *args: Its positional arguments.
            **kwargs: Its keyword arguments.

        Returns:
            The object.

        Raises:
            UserError: If a library's class refuses its arguments, or the project's does so on
                purpose.
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
    """Raise what `fail` was given first, whatever became of it on its way.

    Args:
        config: The configuration of which objects are built.

    Yields:
        Nothing.

    Raises:
        Exception: The first failure, or what was raised without one.
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
    """Refuse what jsonargparse lets through among the settings of an object.

    That is a value where settings are nested, null where a value is expected, and a function in
    the place of a class.

    Args:
        settings: The parsed settings.
        expected: The type of each, by key.

    Raises:
        UserError: If one is refused.
    """
    for key, typehint in expected.items():
        above = key.rpartition(".")[0]
        group = settings.get(above) if above else settings
        if not isinstance(group, Namespace | None):
            fail(UserError(f"{_whole(above, settings)} is {group!r}: expected settings by name"))
        if not isinstance(group, Namespace) or key.rpartition(".")[2] not in group:
            continue
        value = settings.get(key)
        if value is None and not _accepts_null(typehint):
            name = getattr(typehint, "__name__", str(typehint))
            fail(UserError(f"{_whole(key, settings)} is null: expected {name}"))
        if reason := refused_function(typehint, value):
            fail(UserError(f"{_whole(key, settings)}: {reason}"))


def _whole(key: str, settings: Namespace) -> str:
    """Give the key of a setting from the top of the configuration."""
    construction = _current.get()
    for above, value in _objects(construction.config, "") if construction is not None else ():
        if value.get("class_path") and value.get("init_args") == settings:
            return f"{above}.init_args.{key}"
    return key


def _accepts_null(typehint: Any) -> bool:
    if get_origin(typehint) in {Union, UnionType}:
        return any(_accepts_null(arg) for arg in get_args(typehint))
    # A type that jsonargparse cannot check is an object of its own.
    plain = inspect.isclass(typehint) and typehint is not object and typehint is not type(None)
    return not plain and get_origin(typehint) is None


def is_own(cls: type) -> bool:
    """Whether a class is the project's: what it refuses on purpose is a `UserError`."""
    return cls.__module__.partition(".")[0] in OWN_PACKAGES


def name_error(error: Exception, key: str, below: str, settings: Container[str]) -> UserError:
    """Turn what an object raised for its settings into a user error that names their key.

    Args:
        error: The exception.
        key: What to call the object.
        below: The key that its settings are under.
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
    """Report what a library raises for its settings as a user error.

    Args:
        key: The YAML key of those settings.

    Yields:
        Nothing.

    Raises:
        UserError: For any exception; one that is a `UserError` already is left as it is.
    """
    try:
        yield
    except Exception as error:
        if is_user_error(error):
            raise
        raise UserError(f"{key}: {describe(error)}") from error


def describe(error: BaseException) -> str:
    """Give the message of a library's exception in one line.

    Args:
        error: The exception.

    Returns:
        Its message, shortened; the name of its type where that says more.
    """
    text = " ".join(str(error).split())
    if len(text) > _MAX_MESSAGE:
        text = f"{text[:_MAX_MESSAGE]} ..."
    plain = isinstance(error, (*_PLAIN_ERRORS, MisconfigurationException))
    return text if text and plain else f"{type(error).__name__}{': ' if text else ''}{text}"


def find_key(config: Any, cls: type, settings: dict[str, Any]) -> tuple[str, str] | None:
    """Find the object of a configuration that has some class and settings.

    Args:
        config: The parsed configuration.
        cls: The class.
        settings: Its arguments; those that are objects themselves are not compared.

    Returns:
        The key of the object and the key that its settings are under, or null.
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
    """Tell why a function in the place of a class is not called, if there is one.

    A class is checked where it is parsed; a function that a configuration names would be called,
    and what it returns looked at later or never.

    Args:
        typehint: The type that a key expects.
        value: The parsed value.

    Returns:
        What is expected, or null if every function is annotated to return that.
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
    """The classes in a type; of a callable, those that it returns."""
    origin, args = get_origin(typehint), get_args(typehint)
    if origin is not None:
        relevant = args if origin in {Union, UnionType, list, set, dict, tuple} else args[-1:]
        return set().union(*(_classes(arg) for arg in relevant))
    plain = {type(None), str, int, float, bool, object}
    return {typehint} if inspect.isclass(typehint) and typehint not in plain else set()


def _objects(value: Any, key: str) -> Iterator[tuple[str, Namespace]]:
    """Walk over all mappings of a configuration, the outer first."""
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
