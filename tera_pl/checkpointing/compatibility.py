"""Whether a checkpoint fits this run."""

import difflib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from tera_pl.errors import UserError

SECTIONS = ("adapter", "backbone", "data", "tokenizer")
# What training goes on with: its state comes from the checkpoint and would silently win.
RESUMED_SECTIONS = ("optimizer", "schedule", "training")
# A base may move; what it is, config and weights tell.
TOLD = ("backbone.path", "backbone.revision", "backbone.commit", "backbone.config_sha256")
# Characters of a value in an error.
MAX_SHOWN = 300
# The state of one class of optimizer is nothing to another.
FIXED = {"optimizer.class"}
# Differences in an error; another adapter has dozens.
SHOWN = 3
LENGTH = {"training.max_steps", "training.max_epochs"}
# Schedules whose learning rates do not depend on how long training will last.
OPEN_ENDED = {"constant_with_warmup"}


def check_checkpoint(
    checkpoint: Mapping[str, Any],
    spec: Mapping[str, Any],
    parameters: Mapping[str, Tensor],
    *,
    resuming: bool,
    allow_changed: Collection[str] = (),
) -> list[str]:
    """Refuse a checkpoint whose settings or tensors differ from those of this run.

    Args:
        checkpoint: The loaded checkpoint.
        spec: What this run would write beside its tensors. A section that it lacks is not
            compared.
        parameters: The trained parameters of this run by name.
        resuming: Whether training goes on; then optimizer, schedule and what else the steps
            depend on must agree as well. The length of training may differ where the learning
            rates do not depend on it.
        allow_changed: Names of settings that may differ, as the error prints them.

    Returns:
        What differs and is allowed to: its names.

    Raises:
        UserError: If anything else differs, naming each key with both values, if an allowed name
            is no setting at all, or if a tensor has the wrong type or values that are not finite.
    """
    found = checkpoint.get("tera_pl")
    if not isinstance(found, Mapping):
        raise UserError(
            "ckpt_path: this checkpoint carries no description of its adapter: it was not written "
            "by this framework's tasks"
        )
    sections = [*(RESUMED_SECTIONS if resuming else ()), *SECTIONS]
    sections = [section for section in sections if section in spec]
    if missing := [section for section in sections if section not in found]:
        raise UserError(
            f"ckpt_path: the checkpoint's description has no section {', '.join(missing)}: it was "
            "written by an older version: load it with that one, or train again"
        )
    differing = {key: both for key, *both in find_differences(found, spec, sections)}
    _check_names(allow_changed, dict(_flatten(found)).keys() | dict(_flatten(spec)).keys())
    compared = [key for key in differing if key not in TOLD]
    allowed = set(allow_changed) - FIXED
    schedule = spec.get("schedule", {}).get("name")
    if schedule in OPEN_ENDED:
        allowed |= LENGTH
    if refused := [key for key in compared if key not in allowed]:
        told = [key for key in differing if key in TOLD] if _is_base(refused) else []
        raise UserError(_describe(refused, told, differing, schedule))
    check_tensors(checkpoint.get("state_dict"), parameters, "backbone.dtype" not in allowed)
    return compared


def find_differences(
    theirs: Mapping[str, Any], ours: Mapping[str, Any], sections: Collection[str]
) -> list[tuple[str, Any, Any]]:
    """Compare the settings of a checkpoint with those of a run.

    Args:
        theirs: Nested settings of the checkpoint.
        ours: Those of the run.
        sections: The keys that are compared.

    Returns:
        Dotted name and both values of what differs, sorted by name.
    """
    left, right = (
        dict(_flatten({section: values.get(section) for section in sections}))
        for values in (theirs, ours)
    )
    return [
        (key, left.get(key), right.get(key))
        for key in sorted(left.keys() | right.keys())
        if left.get(key) != right.get(key)
    ]


def show(value: Any) -> str:
    """Show a value, from a file that may hold anything, in at most a part of a line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]} ..."


def check_tensors(state: Any, parameters: Mapping[str, Tensor], same_dtype: bool = True) -> None:
    """Refuse tensors that are not values of the trained parameters.

    Args:
        state: Tensors by name, from a file.
        parameters: The trained parameters by name.
        same_dtype: Whether their types must agree; else any floating point is accepted.

    Raises:
        UserError: If one is missing, unknown, of another type or shape, or not finite.
    """
    if not isinstance(state, Mapping):
        raise UserError("ckpt_path: the checkpoint has no state_dict: use another one of the run")
    _check_shapes(
        {name: tuple(getattr(value, "shape", ())) for name, value in state.items()},
        {name: tuple(parameter.shape) for name, parameter in parameters.items()},
    )
    for name, parameter in parameters.items():
        value = state[name]
        dtype = getattr(value, "dtype", type(value).__name__)
        floating = isinstance(value, Tensor) and value.is_floating_point()
        if not floating or (same_dtype and dtype != parameter.dtype):
            raise UserError(f"ckpt_path: {name} is {dtype}: expected {parameter.dtype}")
        if not torch.isfinite(value).all():
            raise UserError(f"ckpt_path: {name} has values that are NaN or infinite")


def change_optimizer(checkpoint: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Put settings of this run into the optimizer's state of a checkpoint, which would win.

    A learning rate scales what the schedule has made of it.

    Args:
        checkpoint: The loaded checkpoint; changed in place.
        settings: New values by name, `lr` for example.
    """
    for state in checkpoint["optimizer_states"]:
        for group in state["param_groups"]:
            for name, value in settings.items():
                if name == "lr":
                    group["lr"] *= value / group.get("initial_lr", group["lr"])
                    group["initial_lr"] = value
                else:
                    group[name] = tuple(value) if isinstance(value, list) else value
    if "lr" in settings:
        for state in checkpoint["lr_schedulers"]:
            state["base_lrs"] = [settings["lr"]] * len(state["base_lrs"])


def _check_names(names: Collection[str], known: Collection[str]) -> None:
    for name in names:
        if name in FIXED:
            raise UserError(f"model.init_args.allow_changed: {name} cannot be changed")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1) or ["data.encoding.template"]
            raise UserError(
                f"model.init_args.allow_changed: there is no setting {name!r} in the checkpoint "
                f"or in this run: expected a name like {near[0]!r}"
            )


def _is_base(keys: Collection[str]) -> bool:
    return any(key.startswith("backbone.") for key in keys)


def _describe(
    refused: list[str], told: list[str], differing: Mapping[str, list[Any]], schedule: str | None
) -> str:
    def both(keys: list[str]) -> str:
        told = "; ".join(
            "{} is {} in the checkpoint and {} in this run".format(key, *map(show, differing[key]))
            for key in keys[:SHOWN]
        )
        return f"{told}; and {len(keys) - SHOWN} more" if len(keys) > SHOWN else told

    length = (
        f" (the {schedule} schedule depends on the length of training: what was trained so far "
        "would have had other learning rates)"
        if LENGTH & set(refused)
        else ""
    )
    return (
        f"ckpt_path: the checkpoint was made with other settings: {both(refused)}{length}: use "
        "the config.yaml of that run, start a new one, or name what is meant to differ in "
        "model.init_args.allow_changed" + (f" (also: {both(told)})" if told else "")
    )


def _check_shapes(
    found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]
) -> None:
    missing = sorted(expected.keys() - found.keys())
    extra = sorted(found.keys() - expected.keys())
    other = sorted(k for k in expected.keys() & found.keys() if expected[k] != found[k])
    if missing or extra or other:
        examples = [*missing[:2], *extra[:2], *other[:2]]
        raise UserError(
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
