"""Checksums over the content of checkpoints, adapters and base models.

SHA-256 throughout: most processors compute it in hardware (1.6 GB per second of an EPYC core), it
needs no package, and two contents with one digest cannot be constructed. Each tensor is hashed on
its own, several at a time, so that an error can name it and more cores shorten the wait.
"""

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor, nn

from tera_pl.errors import UserError

PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)


def digest_tensor(tensor: Tensor) -> str:
    """Hash a tensor.

    Args:
        tensor: Dense, on any device.

    Returns:
        SHA-256, in hexadecimal, over dtype, shape and bytes.
    """
    values = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
    digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def digest_tensors(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Hash tensors, as many at a time as torch uses threads.

    Args:
        tensors: Tensors by name.

    Returns:
        The digest of each by its name.
    """
    # hashlib releases the interpreter's lock while it computes.
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return dict(zip(tensors, pool.map(digest_tensor, tensors.values()), strict=True))


def digest_all(tensors: Mapping[str, Tensor]) -> str:
    """Hash a set of tensors in one value, whatever their order.

    Args:
        tensors: Tensors by name.

    Returns:
        SHA-256, in hexadecimal, over the sorted names with the digest of each tensor.
    """
    digests = digest_tensors(tensors)
    lines = "".join(f"{name} {digests[name]}\n" for name in sorted(digests))
    return hashlib.sha256(lines.encode()).hexdigest()


def fingerprint_frozen(model: nn.Module) -> str:
    """Identify the frozen weights of a model by all their bytes.

    The weights are hashed as they are in memory: how they are distributed over files has no
    effect, and what is identified is what computes.

    Args:
        model: A model, adapted or not. Parameters that require a gradient are left out. What PEFT
            draws for an adapter and saves with it is in.

    Returns:
        A hexadecimal digest; that of nothing if every parameter is trained.
    """
    tensors = {name: p for name, p in model.named_parameters() if not p.requires_grad}
    return digest_all(tensors | _drawn(model))


def _drawn(model: Any) -> dict[str, Tensor]:
    """What PEFT saves with an adapter that is no parameter: positions that SHiRA has drawn.

    Our own adapters have a digest of their own over what they draw.
    """
    if not isinstance(model, PeftModel) or not isinstance(model.base_model, BaseTuner):
        return {}
    if hasattr(model.active_peft_config, "frozen_sha256"):
        return {}
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    known = {p.data_ptr() for p in model.parameters()}
    return {f"adapter.{key}": t for key, t in state.items() if t.data_ptr() not in known}


def digest_entries(content: Mapping[str, Any]) -> dict[str, str]:
    """Hash the entries of a checkpoint.

    Args:
        content: Tensors and plain values, nested in mappings and lists.

    Returns:
        A digest for every tensor by its place, for example `state_dict['model.weight']`, and for
        every key of `content` one over all else below it, for example `loops (values)`.

    Raises:
        UserError: If there is anything but tensors and plain values: `weights_only` could not
            load it.
    """
    tensors: dict[str, Tensor] = {}
    plain = {}
    for key, value in content.items():
        digest = hashlib.sha256()
        # With its name: in a file, that of the entry and that of its digest are one text.
        for token in (str(key), *_tokens(value, str(key), tensors)):
            digest.update(f"{len(token)} {token}".encode())
        plain[f"{key} (values)"] = digest.hexdigest()
    return plain | digest_tensors(tensors)


def _tokens(value: Any, place: str, tensors: dict[str, Tensor]) -> Iterator[str]:
    """Spell out a value without ambiguity, collecting its tensors by their place."""
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
