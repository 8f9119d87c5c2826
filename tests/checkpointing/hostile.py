"""Damage files and contents in many ways, from a seed: for tests, and for longer campaigns.

Each generator yields a description and the damaged thing. What a reader must do with it is one of
two: refuse it with an error for the user, or give what the undamaged one gives.
"""

import copy
import random
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

Case = tuple[str, Any]


def damaged_bytes(content: bytes, seed: int, every: int) -> Iterator[Case]:
    """Flip one bit in each stretch of a file, cut the file off, and swap two stretches of it.

    Args:
        content: The file.
        seed: Chooses the bits and the places.
        every: Length of a stretch in bytes; one flip each.

    Yields:
        What was done, and the bytes.
    """
    random_state = random.Random(seed)
    for start in range(0, len(content), every):
        place = random_state.randrange(start, min(start + every, len(content)))
        flipped = bytearray(content)
        flipped[place] ^= 1 << random_state.randrange(8)
        yield f"a bit of byte {place}", bytes(flipped)
    for share in (0, 0.3, 0.9, 1 - 1 / len(content)):
        yield f"cut off at {share:.3f}", content[: int(share * len(content))]
    for _ in range(4):
        first, second = sorted(random_state.sample(range(len(content) // 16), 2))
        swapped = bytearray(content)
        a, b = slice(16 * first, 16 * first + 16), slice(16 * second, 16 * second + 16)
        swapped[a], swapped[b] = content[b], content[a]
        yield f"16 bytes at {a.start} and {b.start} swapped", bytes(swapped)


def damaged_content(content: Mapping[str, Any], seed: int, count: int) -> Iterator[Case]:
    """Change entries of a nested content: delete, swap, retype, reshape, spoil.

    Args:
        content: Mappings, lists, tensors and plain values; not changed.
        seed: Chooses the entries and what is done with them.
        count: How many cases.

    Yields:
        What was done, and a changed copy.
    """
    random_state = random.Random(seed)
    places = list(_places(content, ()))
    for _ in range(count):
        changed = copy.deepcopy(dict(content))
        place = random_state.choice(places)
        *path, last = place
        parent = _get(changed, path)
        value = parent[last]
        action = random_state.choice(["delete", "swap", *_actions(value)])
        if action == "delete":
            del parent[last]
        elif action == "swap":
            (*other_path, other_last) = random_state.choice(_same_kind(places, content, place))
            other = _get(changed, other_path)
            parent[last], other[other_last] = other[other_last], parent[last]
        else:
            parent[last] = ACTIONS[action](value)
        yield f"{action} {place}", changed


def same(one: Any, other: Any) -> bool:
    """Compare nested contents to the bit, types included."""
    if isinstance(one, Tensor):
        return (
            isinstance(other, Tensor)
            and one.dtype == other.dtype
            and one.shape == other.shape
            and one.contiguous().view(-1).view(torch.uint8).tolist()
            == other.contiguous().view(-1).view(torch.uint8).tolist()
        )
    if isinstance(one, Mapping):
        return (
            isinstance(other, Mapping)
            and one.keys() == other.keys()
            and all(same(value, other[key]) for key, value in one.items())
        )
    if isinstance(one, list | tuple):
        return (
            type(one) is type(other)
            and len(one) == len(other)
            and all(same(a, b) for a, b in zip(one, other, strict=True))
        )
    return type(one) is type(other) and repr(one) == repr(other)


def _spoil(number: float) -> Any:
    def spoil(value: Tensor) -> Tensor:
        value = value.clone()
        value.view(-1)[-1:] = number
        return value

    return spoil


ACTIONS = {
    "nan": _spoil(float("nan")),
    "infinite": _spoil(float("inf")),
    "integer": lambda value: value.int(),
    "double": lambda value: value.double(),
    "reshape": lambda value: torch.cat([value.reshape(-1), torch.ones(1, dtype=value.dtype)]),
    "one bit": lambda value: torch.nextafter(value, torch.full_like(value, 9e9)),
    "text": lambda value: "text",
    "null": lambda value: None,
    "list": lambda value: [value],
    "negative": lambda value: -1 - value,
    "larger": lambda value: value + 1,
    "float": float,
}


def _actions(value: Any) -> list[str]:
    plain = ["text", "null", "list"]
    if isinstance(value, Tensor):
        floating = ["nan", "infinite", "integer", "double", "one bit"]
        return [*plain, "reshape", *(floating if value.is_floating_point() else [])]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return [*plain, "negative", "larger", "float"]
    return plain


def _places(value: Any, place: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    children = value.items() if isinstance(value, Mapping) else ()
    if isinstance(value, list):
        children = enumerate(value)
    for key, child in children:
        yield (*place, key)
        yield from _places(child, (*place, key))


def _get(content: Any, path: list[Any]) -> Any:
    for key in path:
        content = content[key]
    return content


def _same_kind(
    places: list[tuple[Any, ...]], content: Mapping[str, Any], place: tuple[Any, ...]
) -> list[tuple[Any, ...]]:
    """Places that a value can change with: leaves of its type, neither inside of the other."""
    value = _get(content, list(place))
    found = [
        other
        for other in places
        if type(_get(content, list(other))) is type(value)
        and other[: len(place)] != place
        and place[: len(other)] != other
    ]
    return found or [place]
