"""Configuration files that start from others: `base: [../../base/a100.yaml, ...]`."""

import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

OPTIONS = ("--config", "-c")


def expand(args: Sequence[str] | None) -> list[str]:
    """Put the files that a configuration starts from before it.

    A file with a top-level key `base`, a list of files relative to its own folder, means the same
    as those files and then itself, each given with `--config`: what comes later wins.

    Args:
        args: Command line arguments; those of the process if none are given.

    Returns:
        The arguments, with `--config` repeated. A file that had `base` is replaced by its text.

    Raises:
        ValueError: If a file is missing, `base` is no list of files, or files start from each
            other in a circle.
    """
    left = list(sys.argv[1:] if args is None else args)
    expanded: list[str] = []
    while left:
        argument = left.pop(0)
        option, equals, value = argument.partition("=")
        if option not in OPTIONS or not (equals or left):
            expanded.append(argument)
            continue
        value = value if equals else left.pop(0)
        for layer in _layers(value, ()):
            expanded += ["--config", layer]
    return expanded


def _layers(value: str, above: tuple[Path, ...]) -> list[str]:
    """List the configurations that one stands for: paths, or texts where `base` was taken out."""
    path = Path(value)
    if "\n" in value or not path.is_file():
        if above:
            raise ValueError(f"{above[-1]}: base: no file {value}")
        return [value]  # text instead of a file, or a mistake that the parser reports
    path = path.resolve()
    if path in above:
        raise ValueError(f"{path}: base: starts from itself, through {above[-1]}")
    text = path.read_text(encoding="utf-8")
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError:
        return [value]
    if not isinstance(config, dict) or "base" not in config:
        return [value]
    bases = config.pop("base")
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ValueError(f"{path}: base is {bases!r}: expected a list of files")
    layers = [layer for base in bases for layer in _layers(str(path.parent / base), (*above, path))]
    return [*layers, yaml.safe_dump(config, sort_keys=False)] if config else layers
