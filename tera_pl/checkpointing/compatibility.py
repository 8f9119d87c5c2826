"""Check that a checkpoint fits a run."""

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from tera_pl.checkpointing.run_spec import RunSpec
from tera_pl.errors import UserError

# Sections of a run that matter only when training resumes: the state of the optimizer and of the
# schedule comes from the checkpoint and would silently replace other settings.
RESUMED_SECTIONS = ("optimizer", "schedule", "training")
SECTIONS = [field.name for field in fields(RunSpec) if field.name not in RESUMED_SECTIONS]
# The same base model may lie in another folder or revision: its config and weights are compared.
NOT_COMPARED = (
    "backbone.path",
    "backbone.revision",
    "backbone.commit",
    "backbone.gguf_file",
    "backbone.config_sha256",
)
# Longest value in an error, in characters.
MAX_SHOWN = 300
# Another class of optimizer cannot use the saved state.
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
        spec: The sections of this run's `RunSpec` as plain values.
        parameters: The trainable parameters of this run by name.
        resuming: Whether training resumes; then optimizer, schedule and the other settings of the
            steps must agree as well. The length of training may differ where the learning rates
            do not depend on it.
        allow_changed: Names of settings that may differ, as the error prints them.

    Returns:
        Names of the settings that differ and are allowed to.

    Raises:
        UserError: If any other setting differs, naming each key with both values, if an allowed
            name is unknown, or if a tensor has the wrong type or values that are not finite.
    """
    found = checkpoint.get("tera_pl")
    if not isinstance(found, Mapping):
        raise UserError(
            "ckpt_path: this checkpoint carries no description of its adapter: it was not written "
            "by this framework's tasks"
        )
    sections = [*(RESUMED_SECTIONS if resuming else ()), *SECTIONS]
    if missing := [section for section in sections if section not in found]:
        raise UserError(
            f"ckpt_path: the checkpoint's description has no section {', '.join(missing)}: it was "
            "written by an older version: load it with that one, or train again"
        )
    differing = {key: both for key, *both in find_differences(found, spec, sections)}
    _check_names(allow_changed, dict(_flatten(found)).keys() | dict(_flatten(spec)).keys())
    compared = [key for key in differing if key not in NOT_COMPARED]
    allowed = set(allow_changed) - FIXED
    schedule = spec["schedule"]["name"]
    if schedule in OPEN_ENDED:
        allowed |= LENGTH
    if refused := [key for key in compared if key not in allowed]:
        other_base = any(key.startswith("backbone.") for key in refused)
        also = [key for key in differing if key in NOT_COMPARED and other_base]
        raise UserError(_describe(refused, also, differing, schedule))
    check_tensors(checkpoint.get("state_dict"), parameters, "backbone.dtype" not in allowed)
    return compared


def trained_steps(checkpoint: Mapping[str, Any]) -> int:
    """Give the step at which a checkpoint was saved.

    Args:
        checkpoint: The loaded checkpoint.

    Returns:
        Number of steps of the optimizer.

    Raises:
        UserError: If the entry is missing or no number of steps.
    """
    step = checkpoint.get("global_step")
    if type(step) is not int or step < 0:
        raise UserError(
            f"ckpt_path: global_step is {show(step)}: expected a number of steps: use another "
            "checkpoint of the run"
        )
    return step


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
    """Format a value of an untrusted file in one line of at most `MAX_SHOWN` characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]} ..."


def check_tensors(state: Any, parameters: Mapping[str, Tensor], same_dtype: bool = True) -> None:
    """Refuse tensors that are not values of the trainable parameters.

    Args:
        state: Tensors by name, from a file.
        parameters: The trainable parameters by name.
        same_dtype: Whether their types must agree; otherwise any floating point type is accepted.

    Raises:
        UserError: If a tensor is missing, unknown, of another type or shape, or not finite.
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
    """Replace settings in the optimizer's state of a checkpoint by those of this run.

    The current learning rate is scaled by the ratio of the new rate to the old.

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


def describe_differences(differences: Sequence[tuple[str, Any, Any]], here: str) -> str:
    """Name the first differences with both values.

    Args:
        differences: As `find_differences` gives them.
        here: What the other side is called: `in this run`.

    Returns:
        One line.
    """
    shown = "; ".join(
        f"{key} is {show(theirs)} in the checkpoint and {show(ours)} {here}"
        for key, theirs, ours in differences[:SHOWN]
    )
    more = len(differences) - SHOWN
    return f"{shown}; and {more} more" if more > 0 else shown


def _describe(
    refused: list[str], also: list[str], differing: Mapping[str, list[Any]], schedule: str | None
) -> str:
    def both(keys: list[str]) -> str:
        found = [(key, differing[key][0], differing[key][1]) for key in keys]
        return describe_differences(found, "in this run")

    length = (
        f" (the {schedule} schedule depends on the length of training: the steps so far would have "
        "had other learning rates)"
        if LENGTH & set(refused)
        else ""
    )
    return (
        f"ckpt_path: the checkpoint was made with other settings: {both(refused)}{length}: use "
        "the config.yaml of that run, start a new one, or name what is meant to differ in "
        "model.init_args.allow_changed" + (f" (also: {both(also)})" if also else "")
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
