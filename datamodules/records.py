"""Records of a data file, read and checked."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from sys import intern
from typing import Any, NotRequired, TypedDict

from datamodules.errors import UserError
from datamodules.files import read_text, split_lines

_SURROGATE = re.compile("[\ud800-\udfff]")


class Message(TypedDict):
    """One turn of a dialogue: `role` is `system`, `user` or `assistant`."""

    role: str
    content: str


class Candidate(TypedDict):
    """One of the answers that a record is chosen from by its likelihood.

    `answer` is compared with the record's `reference`; the likelihood is that of `continuation`
    after `prompt`, which is not yet in the template.
    """

    answer: str
    prompt: str
    continuation: str


class Record(TypedDict):
    """One example of a dataset.

    `prompt` is the instruction without the template (in evaluation batches, the complete text that
    the model answers), `response` the answer to be learned, `reference` what an answer is scored
    against, `choices` the labels to choose from (None for free text), `task` the sub-task that
    scores are grouped by, and `id` its file and number. Of `candidates`, the likeliest is chosen;
    all records of a dataset have some, or none has.
    """

    prompt: str
    response: str
    task: str
    reference: str | list[str]
    choices: list[str] | None
    id: str
    messages: NotRequired[list[Message]]
    candidates: NotRequired[list[Candidate]]


def read_json(path: Path) -> list[Mapping[str, Any]]:
    """Read a list of JSON objects.

    Args:
        path: A `.json` file with one list or a `.jsonl` file with one object a line, either as it
            is or compressed (`.gz`). UTF-8, with or without a byte order mark.

    Returns:
        The objects in the order of the file.

    Raises:
        UserError: If the file is missing, no regular file, damaged, no valid JSON, empty or holds
            something else than objects. It names the record, counted from 0, or the line, from 1.
    """
    text = read_text(path)
    if path.name.removesuffix(".gz").endswith(".jsonl"):
        lines = enumerate(split_lines(text), start=1)
        objects = [
            _decode(line, 0, f"{path}, line {number}", to_end=True)[0]
            for number, line in lines
            if line.strip()
        ]
    else:
        objects = list(_items(text, path))
    if not objects:
        raise UserError(f"{path} holds no records")
    for number, item in enumerate(objects):
        if not isinstance(item, dict):
            raise UserError(f"{path}, record {number}: a {_kind(item)}: expected an object")
    return objects


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
    if not value.isascii() and _SURROGATE.search(value):
        raise UserError(
            f"{place}: field {field!r} holds half a surrogate pair, which is not valid text"
        )
    return value


def _items(text: str, path: Path) -> Iterator[Any]:
    """Yield the items of a JSON list, each decoded by itself, so that an error can name it."""
    position = _skip(text, 0)
    if not text.startswith("[", position):
        value, _ = _decode(text, 0, str(path), to_end=True)
        raise UserError(f"{path} holds a {_kind(value)}: expected a list of objects")
    position = _skip(text, position + 1)
    number = 0
    while number > 0 or not text.startswith("]", position):
        place = f"{path}, record {number}"
        item, position = _decode(text, position, place)
        yield item
        number += 1
        position = _skip(text, position)
        if text.startswith("]", position):
            break
        if not text.startswith(",", position):
            raise _invalid(text, position, place, "expected ',' or ']' after the record")
        position = _skip(text, position + 1)
    position = _skip(text, position + 1)
    if position < len(text):
        raise _invalid(text, position, str(path), "extra data after the list")


def _decode(text: str, start: int, place: str, *, to_end: bool = False) -> tuple[Any, int]:
    """Decode one JSON value; give it and the position after it."""
    try:
        value, end = _DECODER.raw_decode(text, _skip(text, start))
    except json.JSONDecodeError as error:
        raise _invalid(text, error.pos, place, error.msg) from None
    except _RefusedError as error:
        raise UserError(f"{place}: {error}") from None
    except RecursionError:
        raise UserError(f"{place}: no valid JSON: nested too deeply") from None
    except ValueError:  # Python's limit, which is there because the time grows with the square
        raise UserError(f"{place}: an integer of more than 4,300 digits") from None
    if to_end and _skip(text, end) < len(text):
        raise _invalid(text, end, place, "extra data after the value")
    return value, end


def _invalid(text: str, position: int, place: str, reason: str) -> UserError:
    line = text.count("\n", 0, position) + 1
    where = place if ", line " in place else f"{place}, line {line}"
    return UserError(f"{where}: no valid JSON: {reason}")


def _skip(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    assert match is not None
    return match.end()


class _RefusedError(Exception):
    """What Python's decoder accepts and is not JSON, or not clear."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # One string for a key of all records: each record is decoded by itself.
    found = {intern(key): value for key, value in pairs}
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise _RefusedError(f"key {twice!r} twice in one object: which is meant?")
    return found


def _refuse_constant(name: str) -> None:
    raise _RefusedError(f"{name} is not JSON")


_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_unique)


def _kind(value: Any) -> str:
    kinds = {dict: "object", list: "list", str: "text", bool: "truth value", type(None): "null"}
    return kinds.get(type(value), "number")
