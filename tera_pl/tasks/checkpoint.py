"""What a checkpoint was made for, and whether it fits this run."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from peft import PeftConfig
from torch import nn

# Written by PEFT itself, or moved with a folder: no property of the adapter.
VOLATILE = {"peft_version", "inference_mode", "base_model_name_or_path", "auto_mapping", "revision"}


def describe_adapter(model: Any, adapter: PeftConfig | None) -> dict[str, Any] | None:
    """Give the settings of an adapter as plain values.

    Args:
        model: The adapted model, whose own copy of the settings is complete (hashes, resolved
            targets).
        adapter: The settings that were asked for, or null for none.

    Returns:
        Settings by name, or null without an adapter.
    """
    if adapter is None:
        return None
    settings = model.peft_config["default"].to_dict()
    kept = {key: value for key, value in settings.items() if key not in VOLATILE}
    # What JSON can carry, a weights-only load can read.
    return json.loads(
        json.dumps(kept, default=lambda v: sorted(v) if isinstance(v, set) else str(v))
    )


def describe_optimizer(optimizer: Callable[..., torch.optim.Optimizer]) -> dict[str, Any]:
    """Give class and settings of the optimizer that a callable builds.

    Args:
        optimizer: Builds an optimizer from parameters.

    Returns:
        The class name and every setting that is a plain value.
    """
    built = optimizer([nn.Parameter(torch.zeros(1))])
    settings = {k: v for k, v in built.defaults.items() if isinstance(v, bool | int | float | str)}
    return {"class": type(built).__name__, **settings}


def check_checkpoint(
    checkpoint: Mapping[str, Any],
    spec: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    resuming: bool,
) -> None:
    """Refuse a checkpoint whose settings or tensors differ from those of this run.

    Args:
        checkpoint: The loaded checkpoint.
        spec: What this run would write beside its tensors.
        shapes: Shape of each trained tensor of this run by name.
        resuming: Whether training goes on; then optimizer and schedule must agree as well,
            because their state comes from the checkpoint and would silently win.

    Raises:
        ValueError: If anything differs, naming each key with both values.
    """
    found = checkpoint.get("tera_pl")
    if found is None:
        raise ValueError(
            "ckpt_path: this checkpoint carries no description of its adapter: it was not written "
            "by this framework's tasks"
        )
    sections = [*(["optimizer", "schedule"] if resuming else []), "backbone", "adapter"]
    theirs = dict(_flatten({key: found.get(key) for key in sections}))
    ours = dict(_flatten({key: spec[key] for key in sections}))
    differences = [
        f"{key} is {theirs.get(key)!r} in the checkpoint and {ours.get(key)!r} in this run"
        for key in sorted(theirs.keys() | ours.keys())
        if theirs.get(key) != ours.get(key)
    ]
    if differences:
        raise ValueError(
            f"ckpt_path: the checkpoint was made with other settings: {'; '.join(differences)}: "
            "use the config.yaml of that run, or start a new one"
        )
    _check_shapes({k: tuple(v.shape) for k, v in checkpoint["state_dict"].items()}, shapes)


def _check_shapes(
    found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]
) -> None:
    missing = sorted(expected.keys() - found.keys())
    extra = sorted(found.keys() - expected.keys())
    other = sorted(k for k in expected.keys() & found.keys() if expected[k] != found[k])
    if missing or extra or other:
        examples = [*missing[:2], *extra[:2], *other[:2]]
        raise ValueError(
            f"ckpt_path: {len(missing)} trained tensors are missing from the checkpoint, "
            f"{len(extra)} are unknown and {len(other)} have another shape, for example "
            f"{', '.join(examples)}"
        )


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flatten(item, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value
