"""Records: what a benchmark file holds, read and checked."""

import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from datamodules.errors import UserError


class Record(TypedDict):
    """One example of a benchmark.

    `prompt` is the text that the model sees before it answers, `response` the text it learns to
    answer with, `reference` what an answer is scored against, `choices` the labels to choose from
    (none for free text), `task` the sub-task for scores by task, and `id` tells where it is from.
    """

    prompt: str
    response: str
    task: str
    reference: str | list[str]
    choices: list[str] | None
    id: str


def read_json(path: Path) -> list[Mapping[str, Any]]:
    """Read a list of JSON objects.

    Args:
        path: A `.json` file with one list or a `.jsonl` file with one object a line, either as it
            is or compressed (`.gz`). UTF-8, with or without a byte order mark.

    Returns:
        The objects in the order of the file.

    Raises:
        UserError: If the file is missing, damaged, no valid JSON, empty or holds something else
            than objects.
    """
    text = read_text(path)
    try:
        if path.name.removesuffix(".gz").endswith(".jsonl"):
            lines = enumerate(split_lines(text), start=1)
            objects = [_parse_line(path, number, line) for number, line in lines if line.strip()]
        else:
            objects = _parse(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: no valid JSON: {error.msg}") from None
    except _RepeatedKeyError as error:
        raise UserError(f"{path}: key {error} twice in one object: which is meant?") from None
    except (RecursionError, OverflowError):
        raise UserError(f"{path}: no valid JSON: nested too deeply") from None
    if not isinstance(objects, list):
        raise UserError(f"{path} holds a {_kind(objects)}: expected a list of objects")
    if not objects:
        raise UserError(f"{path} holds no records")
    for number, item in enumerate(objects):
        if not isinstance(item, dict):
            raise UserError(f"{path}, record {number}: a {_kind(item)}: expected an object")
    return objects


def read_text(path: Path) -> str:
    """Read a text file.

    Args:
        path: A file in UTF-8, with or without a byte order mark, compressed (`.gz`) or not.

    Returns:
        Its text.

    Raises:
        UserError: If the file is missing, damaged or not UTF-8.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    try:
        if path.name.endswith(".gz"):
            data = gzip.decompress(data)
        return data.decode("utf-8-sig")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path} is damaged: {error}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}, byte {error.start}: not UTF-8") from None


def split_lines(text: str) -> list[str]:
    """Split a text at line feeds, with or without a carriage return, and at nothing else.

    `str.splitlines` splits at nine more characters, which may occur inside a line of data.
    """
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines[:-1] if lines[-1] == "" else lines


def get_text(item: Mapping[str, Any], field: str, place: str, *, empty: bool = False) -> str:
    """Take a text field out of an object.

    Args:
        item: The object.
        field: Name of the field.
        place: File and record, for the message.
        empty: Whether the text may be empty or white.

    Returns:
        The text as it stands.

    Raises:
        UserError: If the field is missing, no text, empty, or holds half a surrogate pair.
    """
    if field not in item:
        raise UserError(f"{place}: no field {field!r}: there are {', '.join(map(repr, item))}")
    value = item[field]
    if not isinstance(value, str):
        raise UserError(f"{place}: field {field!r} is a {_kind(value)}: expected text")
    if not empty and not value.strip():
        raise UserError(f"{place}: field {field!r} is empty")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise UserError(f"{place}: field {field!r} holds half a surrogate pair, which is no text")
    return value


def find_file(folder: Path, names: Sequence[str]) -> Path:
    """Find the one file in a folder that matches a pattern.

    Args:
        folder: Where to look.
        names: Patterns such as `train*.json`.

    Returns:
        The file.

    Raises:
        UserError: If there is none, or more than one.
    """
    found = sorted({path for name in names for path in folder.glob(name)})
    if len(found) == 1:
        return found[0]
    problem = f"has {', '.join(p.name for p in found)}" if found else "has none"
    where = folder if folder.is_dir() else f"{folder} (no such folder)"
    raise UserError(f"{where}: expected exactly one file {' or '.join(names)}, {problem}")


def _parse_line(path: Path, number: int, line: str) -> Any:
    try:
        return _parse(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {number}: no valid JSON: {error.msg}") from None
    except _RepeatedKeyError as error:
        raise UserError(f"{path}, line {number}: key {error} twice in one object") from None


def _parse(text: str) -> Any:
    return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique)


class _RepeatedKeyError(Exception):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _RepeatedKeyError(repr(next(key for key in keys if keys.count(key) > 1)))
    return found


def _refuse_constant(name: str) -> None:
    raise json.JSONDecodeError(f"{name} is not JSON", name, 0)


def _kind(value: Any) -> str:
    kinds = {dict: "object", list: "list", str: "text", bool: "truth value", type(None): "null"}
    return kinds.get(type(value), "number")
