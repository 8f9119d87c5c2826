"""Configuration fragments: `base: [../../base/a100.yaml, ...]` in a configuration file."""

import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader

from tera_pl.config.shipped import find_config, near_names, require_config
from tera_pl.config.yaml_files import parse_yaml, read_yaml
from tera_pl.errors import UserError

OPTIONS = ("--config", "-c")
NULLS = ("null", "Null", "NULL", "~")


def expand(args: Sequence[str] | None) -> list[str]:
    """Expand the `base` of configuration files into `--config` arguments.

    `base` is a top-level list of files, relative to the folder of the file that has it, or of names
    of shipped configurations. It means the same as these files followed by the file itself, each
    given with `--config`: later values override earlier ones.

    Args:
        args: Command line arguments; those of the process if none are given.

    Returns:
        The arguments, with `--config` repeated. A file with `base` is replaced by its other
        content as text, and an option with the value null by a configuration.

    Raises:
        UserError: If a file is missing, `base` is not a list of files, or files refer to each other
            in a cycle.
    """
    left = list(sys.argv[1:] if args is None else args)
    expanded: list[str] = []
    while left:
        argument = left.pop(0)
        option, equals, value = argument.partition("=")
        if not equals and not left:
            expanded.append(argument)
            continue
        if option not in OPTIONS:
            config = _null_as_config(option, value if equals else left[0])
            if config is None:
                expanded.append(argument)
            else:
                expanded += ["--config", config]
                del left[: 0 if equals else 1]
            continue
        value = value if equals else left.pop(0)
        for fragment in _fragments(value):
            expanded += ["--config", fragment]
    return expanded


def _fragments(value: str) -> list[str]:
    """List the fragments of a configuration: paths, or texts where `base` was removed."""
    if is_text(value):
        _check_texts(parse_yaml(value, "--config"), "--config")
        return [value]
    return _of_file(require_config(value), ())


def _of_file(path: Path, above: tuple[Path, ...]) -> list[str]:
    found_at = path.resolve()
    if found_at in above:
        raise UserError(f"{path}: base: starts from itself, through {above[-1]}")
    config = read_yaml(path)
    _check_texts(config, str(path))
    if "base" not in config:
        return [str(path)]
    bases = config.pop("base")
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise UserError(f"{path}: base is {bases!r}: expected a list of files")
    above = (*above, found_at)
    found = [f for base in bases for f in _of_file(_find_base(base, found_at), above)]
    return [*found, yaml.safe_dump(config, sort_keys=False)] if config else found


def _find_base(base: str, of: Path) -> Path:
    path = find_config(base, of.parent)
    if path is None:
        raise UserError(f"{of}: base: no file {of.parent / base}{near_names(base, of.parent)}")
    return path


def _check_texts(value: Any, place: str) -> None:
    """Refuse strings that would become null: jsonargparse parses strings as YAML once more."""
    if isinstance(value, str) and value in NULLS:
        raise UserError(
            f"{place}: the text {value!r} would be read as null: write null without quotes, or "
            "another text"
        )
    items = enumerate(value) if isinstance(value, list) else ()
    for key, item in value.items() if isinstance(value, dict) else items:
        _check_texts(item, f"{place}: {key}" if ": " not in place else f"{place}.{key}")


def _null_as_config(option: str, value: str) -> str | None:
    """Convert an option with the value null to an equivalent configuration, others to None.

    jsonargparse 4.53 parses a value, then passes it to nested classes as a string,
    `f"--{key}={value}"` in `adapt_class_type`: null becomes `None`, which a `str` field accepts.

        @dataclass
        class Inner:
            text: str | None = "x"

        class Outer:
            def __init__(self, inner: Inner = Inner()): ...

        parser = jsonargparse.ArgumentParser()
        parser.add_subclass_arguments(Outer, "outer")
        # Gives the text 'None' where null is expected.
        parser.parse_args(["--outer=__main__.Outer", "--outer.init_args.inner.text=null"])
    """
    if not option.startswith("--") or "." not in option or option.endswith(("+", ".help")):
        return None
    if not value.strip():  # a string, not YAML
        return None
    try:
        loaded = get_loader("yaml")(value)
    except yaml.YAMLError:
        return None
    if not _has_null(loaded):
        return None
    for key in reversed(option.removeprefix("--").split(".")):
        loaded = {key: loaded}
    return json.dumps(loaded)


def _has_null(value: Any) -> bool:
    if isinstance(value, list | dict):
        return any(
            _has_null(item) for item in (value.values() if isinstance(value, dict) else value)
        )
    return value is None


def empty_mappings(args: Sequence[str]) -> list[tuple[str, ...]]:
    """List the keys whose value is an empty mapping, which jsonargparse ignores.

    Args:
        args: Command line arguments as `expand` gives them.

    Returns:
        Paths of keys.
    """
    found: list[tuple[str, ...]] = []
    for option, value in itertools.pairwise(args):
        if option not in OPTIONS:
            continue
        given = parse_yaml(value, option) if is_text(value) else read_yaml(Path(value))
        found += _empty(given, ())
    return found


def is_text(value: str) -> bool:
    """Check whether a configuration is given as text instead of as a path."""
    return "\n" in value or value.lstrip().startswith("{")


def has_key(config: Any, path: Sequence[str]) -> bool:
    """Check whether nested settings have a key.

    Args:
        config: Mappings, or namespaces of jsonargparse.
        path: Path of the key.

    Returns:
        Whether every part of the path exists.
    """
    for key in path:
        settings = config if isinstance(config, Mapping) else getattr(config, "__dict__", {})
        if key not in settings:
            return False
        config = settings[key]
    return True


def _empty(value: Any, above: tuple[str, ...]) -> list[tuple[str, ...]]:
    if not isinstance(value, dict):
        return []
    if not value:
        return [above] if above else []
    return [path for key, below in value.items() for path in _empty(below, (*above, str(key)))]
