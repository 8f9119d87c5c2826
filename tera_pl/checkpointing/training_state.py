"""Check that the state of training in a checkpoint can be resumed."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tera_pl.checkpointing.compatibility import show
from tera_pl.errors import UserError
from tera_pl.private_api.torch import LAST_RATES

WHAT_TO_DO = "use another checkpoint of the run"
LISTS = ("optimizer_states", "lr_schedulers")
RATES = ("base_lrs", LAST_RATES)


def check_training_state(
    checkpoint: Mapping[str, Any],
    parameters: Sequence[Tensor],
    optimizer: Callable[..., torch.optim.Optimizer],
    scheduler: Callable[..., Any],
    trainer: Any,
) -> None:
    """Refuse a checkpoint from which training could not resume to the same bits.

    Args:
        checkpoint: The loaded checkpoint, whose settings are those of this run.
        parameters: The trainable parameters, in the order of the optimizer.
        optimizer: Builds the optimizer from parameters.
        scheduler: Builds the learning rate scheduler from an optimizer.
        trainer: The trainer, with its loops and callbacks.

    Raises:
        UserError: If an entry is missing, of another type or shape, or not finite, with its name.
    """
    for name in ("global_step", "epoch"):
        _check_form(checkpoint.get(name), 0, name)
    if 0 <= trainer.max_steps < checkpoint["global_step"]:
        raise UserError(
            f"trainer.max_steps is {trainer.max_steps}, but the checkpoint is at step "
            f"{checkpoint['global_step']}: expected more"
        )
    for name in LISTS:
        entries = checkpoint.get(name)
        if not isinstance(entries, list) or len(entries) != 1 or not _is_mapping(entries[0]):
            raise UserError(f"ckpt_path: {name} does not hold one state: {WHAT_TO_DO}")
    (state,) = checkpoint["optimizer_states"]
    _check_groups(state.get("param_groups"), checkpoint["tera_pl"]["optimizer"], len(parameters))
    copies = [nn.Parameter(torch.empty(p.shape, dtype=p.dtype, device="meta")) for p in parameters]
    fresh = optimizer(copies)
    schedule = scheduler(fresh).state_dict()
    # A learning rate may be an integer in one of the two.
    schedule |= {name: [float(rate) for rate in schedule[name]] for name in RATES}
    _check_form(checkpoint["lr_schedulers"][0], schedule, "lr_schedulers[0]")
    _check_optimizer(state.get("state"), copies, fresh)
    _check_form(checkpoint.get("loops"), {"fit_loop": trainer.fit_loop.state_dict()}, "loops")
    _check_callbacks(checkpoint.get("callbacks"), trainer.callbacks)


def _check_groups(groups: Any, settings: Mapping[str, Any], number: int) -> None:
    """Check that the groups hold every parameter, and the settings that the checkpoint names."""
    where = "optimizer_states[0]['param_groups']"
    if not isinstance(groups, list) or not all(_is_mapping(group) for group in groups):
        raise UserError(f"ckpt_path: {where} is missing or damaged: {WHAT_TO_DO}")
    indices = [index for group in groups for index in group.get("params", ())]
    if indices != list(range(number)):
        raise UserError(
            f"ckpt_path: {where} does not list the {number} trained tensors: {WHAT_TO_DO}"
        )
    for group in groups:
        for name, expected in settings.items():
            found = group.get("initial_lr" if name == "lr" else name)
            found = list(found) if isinstance(found, tuple) else found
            if name != "class" and found != expected:
                raise UserError(
                    f"ckpt_path: {where} has {name} {show(found)}, but the checkpoint was made "
                    f"with {show(expected)}: {WHAT_TO_DO}"
                )
        _check_finite(group.get("lr"), f"{where}['lr']")


def _check_optimizer(
    states: Any, parameters: Sequence[Tensor], optimizer: torch.optim.Optimizer
) -> None:
    where = "optimizer_states[0]['state']"
    if not _is_mapping(states) or not states.keys() <= set(range(len(parameters))):
        raise UserError(f"ckpt_path: {where} is missing or damaged: {WHAT_TO_DO}")
    expected = _expected_states(parameters, optimizer)
    for index, entries in states.items():
        place = f"{where}[{index}]"
        if not _is_mapping(entries):
            raise UserError(f"ckpt_path: {place} is damaged: {WHAT_TO_DO}")
        if expected is not None and entries.keys() != expected[index].keys():
            different = entries.keys() ^ expected[index].keys()
            raise UserError(
                f"ckpt_path: {place} lacks or adds {', '.join(sorted(map(str, different)))}: "
                f"{WHAT_TO_DO}"
            )
        for name, value in entries.items():
            if expected is not None:
                _check_like(value, expected[index][name], f"{place}[{name!r}]")
            if isinstance(value, Tensor) and value.is_floating_point():
                _check_finite(value, f"{place}[{name!r}]")


def _expected_states(
    parameters: Sequence[Tensor], optimizer: torch.optim.Optimizer
) -> Mapping[int, Mapping[str, Any]] | None:
    """Give the states that an optimizer keeps: those after a step on the meta device.

    None for an optimizer that cannot step there, because it depends on values.
    """
    for parameter in parameters:
        parameter.grad = torch.empty_like(parameter)
    try:
        optimizer.step()
    except (RuntimeError, NotImplementedError, TypeError):
        return None
    return optimizer.state_dict()["state"]


def _check_callbacks(states: Any, callbacks: Sequence[Any]) -> None:
    """Check the states of the callbacks that every run has; others may be new."""
    if not _is_mapping(states):
        raise UserError(f"ckpt_path: callbacks is missing: {WHAT_TO_DO}")
    for callback in callbacks:
        name, expected = type(callback).__qualname__, callback.state_dict()
        if not expected or not type(callback).__module__.startswith("tera_pl."):
            continue
        # A callback whose settings were changed has another key and starts without a state.
        keys = [key for key in states if str(key).split("{")[0] == name]
        if not keys:
            raise UserError(f"ckpt_path: callbacks has no state of {name}: {WHAT_TO_DO}")
        for key in keys:
            _check_form(states[key], dict.fromkeys(expected), f"callbacks[{key!r}]")


def _check_form(found: Any, expected: Any, where: str) -> None:
    """Check that a value has the keys and types of another, and finite, non-negative numbers."""
    if _is_mapping(expected):
        if not _is_mapping(found):
            raise UserError(f"ckpt_path: {where} is missing or damaged: {WHAT_TO_DO}")
        for key, value in expected.items():
            if key not in found:
                raise UserError(f"ckpt_path: {where} lacks {key!r}: {WHAT_TO_DO}")
            _check_form(found[key], value, f"{where}[{key!r}]")
    elif isinstance(expected, list):
        if not isinstance(found, list) or len(found) != len(expected):
            raise UserError(
                f"ckpt_path: {where} is {show(found)}: expected a list of {len(expected)}: "
                f"{WHAT_TO_DO}"
            )
        for index, value in enumerate(expected):
            _check_form(found[index], value, f"{where}[{index}]")
    elif isinstance(expected, float):
        _check_finite(found, where)
    elif isinstance(expected, int) and (type(found) is not type(expected) or found < 0):
        raise UserError(
            f"ckpt_path: {where} is {show(found)}: expected a {type(expected).__name__} that is "
            f"not negative: {WHAT_TO_DO}"
        )


def _check_like(found: Any, expected: Any, where: str) -> None:
    if not isinstance(expected, Tensor):
        if type(found) is not type(expected):
            raise UserError(
                f"ckpt_path: {where} is a {type(found).__name__}: expected a "
                f"{type(expected).__name__}: {WHAT_TO_DO}"
            )
        return
    kind = (getattr(found, "dtype", type(found).__name__), tuple(getattr(found, "shape", ())))
    if kind != (expected.dtype, tuple(expected.shape)):
        raise UserError(
            f"ckpt_path: {where} is {kind[0]} of shape {kind[1]}: expected {expected.dtype} of "
            f"shape {tuple(expected.shape)}: {WHAT_TO_DO}"
        )


def _check_finite(value: Any, where: str) -> None:
    finite = (
        bool(torch.isfinite(value).all())
        if isinstance(value, Tensor)
        else type(value) in {int, float} and math.isfinite(value)
    )
    if not finite:
        raise UserError(f"ckpt_path: {where} has values that are NaN or infinite: {WHAT_TO_DO}")


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)
