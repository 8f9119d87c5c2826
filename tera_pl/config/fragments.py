"""Configuration files that start from others: `base: [../../base/a100.yaml, ...]`."""

import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader

from tera_pl.config.yaml_files import parse_yaml, read_yaml
from tera_pl.errors import UserError

OPTIONS = ("--config", "-c")
NULLS = ("null", "Null", "NULL", "~")


def expand(args: Sequence[str] | None) -> list[str]:
    """Put the files that a configuration starts from before it.

    A file with a top-level key `base`, a list of files relative to its own folder, means the same
    as those files and then itself, each given with `--config`: what comes later wins.

    Args:
        args: Command line arguments; those of the process if none are given.

    Returns:
        The arguments, with `--config` repeated. A file that had `base` is replaced by its text, and
        so is an option that is given null.

    Raises:
        UserError: If a file is missing, `base` is no list of files, or files start from each
            other in a circle.
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
        for layer in _layers(value, ()):
            expanded += ["--config", layer]
    return expanded


def _layers(value: str, above: tuple[Path, ...]) -> list[str]:
    """List the configurations that one stands for: paths, or texts where `base` was taken out."""
    if _is_text(value):
        _check_texts(parse_yaml(value, "--config"), "--config")
        return [value]
    path = Path(value)
    found_at = path.resolve()
    if found_at in above:
        raise UserError(f"{path}: base: starts from itself, through {above[-1]}")
    if above and not path.exists():
        raise UserError(f"{above[-1]}: base: no file {value}")
    config = read_yaml(path)
    _check_texts(config, str(path))
    if "base" not in config:
        return [value]
    bases = config.pop("base")
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise UserError(f"{path}: base is {bases!r}: expected a list of files")
    above = (*above, found_at)
    layers = [layer for base in bases for layer in _layers(str(found_at.parent / base), above)]
    return [*layers, yaml.safe_dump(config, sort_keys=False)] if config else layers


def _check_texts(value: Any, place: str) -> None:
    """Refuse quoted texts that would be read as null: jsonargparse reads texts as YAML again."""
    if isinstance(value, str) and value in NULLS:
        raise UserError(
            f"{place}: the text {value!r} would be read as null: write null without quotes, or "
            "another text"
        )
    items = enumerate(value) if isinstance(value, list) else ()
    for key, item in value.items() if isinstance(value, dict) else items:
        _check_texts(item, f"{place}: {key}" if ": " not in place else f"{place}.{key}")


def _null_as_config(option: str, value: str) -> str | None:
    """Turn an option that is given null into a configuration that says the same, or give null.

    jsonargparse 4.53 reads a value, then hands it down two levels of classes as text, with
    `f"--{key}={value}"` in `adapt_class_type`: null becomes `None`, which a field for text takes.

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
    if not value.strip():  # text, and no YAML
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
    """List the keys that configurations give an empty mapping, which a parser passes over.

    Args:
        args: Command line arguments as `expand` gives them.

    Returns:
        Paths of keys.
    """
    found: list[tuple[str, ...]] = []
    for option, value in itertools.pairwise(args):
        if option not in OPTIONS:
            continue
        given = parse_yaml(value, option) if _is_text(value) else read_yaml(Path(value))
        found += _empty(given, ())
    return found


def _is_text(value: str) -> bool:
    """Whether a configuration is given as it is instead of as a path."""
    return "\n" in value or value.lstrip().startswith("{")


def has_key(config: Any, path: Sequence[str]) -> bool:
    """Whether there is a key in nested settings.

    Args:
        config: Mappings, or namespaces of jsonargparse.
        path: The key and those above it.

    Returns:
        Whether all are there.
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
