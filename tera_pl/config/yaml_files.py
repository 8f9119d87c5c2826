"""Read YAML files strictly; invalid input is an error of one line."""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from tera_pl.errors import UserError

MAX_BYTES = 2**20
# Values with all aliases expanded; a resolved configuration has some hundreds.
MAX_VALUES = 100_000
MAX_DEPTH = 64

# As in YAML 1.2: an exponent needs neither point nor sign.
_FLOAT = re.compile(
    r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+"
    r"|\.[0-9]+(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF))$|\.(?:nan|NaN|NAN)$"
)


class _Loader(yaml.CSafeLoader):
    """The safe loader, but `1e-3` is a number and a date is a string, as on the command line."""


_Loader.yaml_implicit_resolvers = {
    first: [item for item in resolvers if not item[0].endswith((":float", ":timestamp"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Args:
        path: A regular file in UTF-8.

    Returns:
        Its content; an empty mapping for an empty file.

    Raises:
        UserError: If there is no such file, or its content is invalid as for `parse_yaml`.
    """
    if not path.is_file():
        reason = "it is not a regular file" if path.exists() else "there is no such file"
        raise UserError(f"cannot read {path}: {reason}")
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise UserError(f"{path}: larger than {MAX_BYTES:,} bytes: expected a YAML file")
        text = content.decode("utf-8")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: invalid UTF-8 at byte {error.start}: expected a YAML file"
        ) from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, name: str) -> dict[str, Any]:
    """Parse YAML that holds a mapping.

    Args:
        text: The YAML.
        name: Its name in errors, for example a path.

    Returns:
        Its content; an empty mapping for an empty text.

    Raises:
        UserError: If it is invalid YAML or not a mapping with names as keys, a key occurs twice, an
            alias contains itself, or aliases expand to more than `MAX_VALUES` values.
    """
    loader = None
    try:
        _check_depth(text, name)
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return {}
        _Checker(loader, name).check(node, ())
        content = loader.construct_document(node)
    except UserError:
        raise
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{name}: invalid YAML: {_reason(error)}") from error
    finally:
        if loader is not None:
            loader.dispose()
    if not isinstance(content, dict):
        raise UserError(f"{name}: expected a mapping of settings, found {_kind(node)}")
    return content


def _check_depth(text: str, name: str) -> None:
    """Refuse deep nesting before the loader, whose recursion would exhaust the stack."""
    depth = 0
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                line = event.start_mark.line + 1
                raise UserError(f"{name}, line {line}: nested deeper than {MAX_DEPTH} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


class _Checker:
    """Checks the nodes of a document before they are converted to objects."""

    def __init__(self, loader: _Loader, name: str) -> None:
        self.loader = loader
        self.name = name
        self.sizes: dict[int, int] = {}
        self.open: set[int] = set()

    def check(self, node: yaml.Node, path: tuple[str, ...]) -> int:
        """Count the values of a node with aliases expanded; refuse an invalid node."""
        key = id(node)
        if key in self.open:
            raise self.error(node, path, "contains itself")
        if key in self.sizes:
            return self.sizes[key]
        self.open.add(key)
        size = 1 + sum(self.check(value, below) for value, below in self._below(node, path))
        self.open.remove(key)
        if size > MAX_VALUES:
            raise self.error(node, path, f"aliases make more than {MAX_VALUES:,} values")
        self.sizes[key] = size
        return size

    def _below(
        self, node: yaml.Node, path: tuple[str, ...]
    ) -> list[tuple[yaml.Node, tuple[str, ...]]]:
        if isinstance(node, yaml.SequenceNode):
            return [(value, (*path, str(index))) for index, value in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode):
            return []
        lines: dict[Hashable, int] = {}
        found = []
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self.error(key, path, f"a key is {_kind(key)}: expected a name")
            below = (*path, key.value)
            given = (key.tag, key.value)
            if given in lines:
                raise self.error(key, below, f"given twice, first in line {lines[given]}")
            lines[given] = key.start_mark.line + 1
            found.append((value, below))
        return found

    def error(self, node: yaml.Node, path: tuple[str, ...], reason: str) -> UserError:
        """Make an error that names file, line and key."""
        key = ".".join(path)
        place = f"{self.name}, line {node.start_mark.line + 1}"
        return UserError(f"{place}: {f'{key}: ' if key else ''}{reason}")


def _kind(node: yaml.Node) -> str:
    kinds = {yaml.SequenceNode: "a list", yaml.MappingNode: "a mapping"}
    return kinds.get(type(node), "a single value")


def _reason(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    line = f" in line {mark.line + 1}" if mark is not None else ""
    problem = getattr(error, "problem", None) or str(error).split("\n")[0]
    return f"{problem}{line}"
