"""Checksums over the entries of a checkpoint."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from tera_pl.errors import UserError
from tera_pl.tensor.checksums import digest_tensors

PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)


def digest_entries(content: Mapping[str, Any]) -> dict[str, str]:
    """Hash the entries of a checkpoint.

    Args:
        content: Tensors and plain values, nested in mappings and lists.

    Returns:
        A digest of every tensor by its place, for example `state_dict['model.weight']`, and for
        every key of `content` one of all other values below it, for example `loops (values)`.

    Raises:
        UserError: If it holds other objects than tensors and plain values, which `weights_only`
            could not load.
    """
    tensors: dict[str, Tensor] = {}
    plain = {}
    for key, value in content.items():
        digest = hashlib.sha256()
        # The name is hashed too: a damaged file can rename an entry and its digest alike.
        for token in (str(key), *_tokens(value, str(key), tensors)):
            digest.update(f"{len(token)} {token}".encode())
        plain[f"{key} (values)"] = digest.hexdigest()
    return plain | digest_tensors(tensors)


def _tokens(value: Any, place: str, tensors: dict[str, Tensor]) -> Iterator[str]:
    """Serialize a value without ambiguity, collecting its tensors by their place."""
    if isinstance(value, Tensor):
        tensors[place] = value
        yield "tensor"
    elif isinstance(value, Mapping):
        yield f"mapping {len(value)}"
        for key in sorted(value, key=lambda key: (type(key).__name__, repr(key))):
            yield from _tokens(key, place, tensors)
            yield from _tokens(value[key], f"{place}[{key!r}]", tensors)
    elif isinstance(value, list | tuple):
        yield f"{'list' if isinstance(value, list) else 'tuple'} {len(value)}"
        for index, item in enumerate(value):
            yield from _tokens(item, f"{place}[{index}]", tensors)
    elif isinstance(value, set | frozenset):
        yield f"set {sorted(map(repr, value))}"
    elif type(value) in PLAIN:
        yield f"{type(value).__name__} {value!r}"
    else:
        raise UserError(
            f"checkpoint: {place} is a {type(value).__name__}: expected tensors and plain values "
            "only, which load without running code; change what that state_dict() returns"
        )
