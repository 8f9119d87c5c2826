"""Refuse settings that jsonargparse accepts although they are invalid."""

import inspect
import pkgutil
import typing
from collections.abc import Mapping
from types import UnionType
from typing import Any, Union, get_args, get_origin

from jsonargparse import Namespace

from tera_pl.config.construction import current_config, fail
from tera_pl.config.keys import iter_objects
from tera_pl.errors import UserError


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
    for above, value in iter_objects(current_config(), ""):
        if value.get("class_path") and value.get("init_args") == settings:
            return f"{above}.init_args.{key}"
    return key


def _accepts_null(typehint: Any) -> bool:
    if get_origin(typehint) in {Union, UnionType}:
        return any(_accepts_null(arg) for arg in get_args(typehint))
    # jsonargparse represents a type that it cannot check by an object that is not a class.
    plain = inspect.isclass(typehint) and typehint is not object and typehint is not type(None)
    return not plain and get_origin(typehint) is None


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
