"""Find the YAML key of an object of a configuration."""

from collections.abc import Iterator
from typing import Any

from jsonargparse import Namespace


def find_key(config: Any, cls: type, settings: dict[str, Any]) -> tuple[str, str] | None:
    """Find the object of a configuration that has a class and settings.

    Args:
        config: The parsed configuration.
        cls: The class.
        settings: The settings; those that are objects themselves are not compared.

    Returns:
        The key of the object and the key above its settings, or None.
    """
    for key, value in iter_objects(config, ""):
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


def iter_objects(value: Any, key: str) -> Iterator[tuple[str, Namespace]]:
    """Iterate over the mappings of a configuration, outer ones first.

    Args:
        value: A value of the configuration, or the configuration.
        key: Its key; empty for the configuration.

    Yields:
        The key and the content of each mapping.
    """
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from iter_objects(item, f"{key}[{index}]")
    elif isinstance(value, Namespace):
        if key:
            yield key, value
        below = vars(value)
        if value.get("class_path"):
            below = vars(value.get("init_args", value))
            key = f"{key}.init_args"
        for name, item in below.items():
            yield from iter_objects(item, f"{key}.{name}" if key else name)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return isinstance(value, str | int | float | bool | None)
