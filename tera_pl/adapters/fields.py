"""Checks of the fields of adapter configurations."""

import dataclasses
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from huggingface_hub.dataclasses import type_validator
from huggingface_hub.errors import StrictDataclassFieldValidationError

from tera_pl.errors import UserError

if TYPE_CHECKING:
    from tera_pl.adapters.config import AdapterConfig

_TYPE_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def check_fields(config: "AdapterConfig") -> None:
    """Check the type of every field and the values of the shared ones.

    Args:
        config: A configuration; lists of modules become sets, as PEFT expects.

    Raises:
        UserError: If a value has the wrong type or is not one of the choices, no module is named,
            settings contradict each other, or `dropout` is not in `[0, 1)`.
    """
    _check_types(config)
    for name in ("target_modules", "exclude_modules"):
        value = getattr(config, name)
        if value is not None and not value:
            raise UserError(f"{name} is {value!r}: expected names of modules, a pattern or null")
        setattr(config, name, set(value) if isinstance(value, list) else value)
    layers, pattern = config.layers_to_transform, config.layers_pattern
    if layers is not None and isinstance(config.target_modules, str):
        raise UserError(
            "layers_to_transform needs a list of target_modules: a pattern names its layers itself"
        )
    if pattern and layers is None:
        raise UserError("layers_pattern has an effect only with layers_to_transform: set both")
    dropout = config.dropout
    if not 0 <= dropout < 1:
        raise UserError(f"dropout is {dropout}: expected at least 0 and less than 1")


def check_positive(config: "AdapterConfig", *names: str) -> None:
    """Check that fields are positive integers.

    Args:
        config: A configuration.
        *names: Names of its fields.

    Raises:
        UserError: If a value is not an integer, or less than one.
    """
    for name in names:
        value = getattr(config, name)
        if type(value) is not int or value < 1:
            raise UserError(f"{name} is {value!r}: expected a whole number of at least 1")


def _check_types(config: "AdapterConfig") -> None:
    """Refuse values of other types, which a damaged adapter_config.json may contain."""
    own = {
        name
        for cls in type(config).__mro__
        if cls.__module__.startswith("tera_pl.")
        for name in vars(cls).get("__annotations__", {})
    }
    hints = get_type_hints(type(config))
    # PEFT accepts any collection of module names and checks it.
    own -= {"target_modules", "exclude_modules"}
    for field in dataclasses.fields(config):
        if field.name in own:
            _check_type(field.name, getattr(config, field.name), hints[field.name])


def _check_type(name: str, value: Any, hint: Any) -> None:
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        if value not in choices:
            listed = (" or " if len(choices) == 2 else ", ").join(choices)
            raise UserError(f"{name} is {value!r}: expected {listed}")
        return
    if isinstance(value, str) and "Literal" in str(hint):
        return  # a choice beside other types: its class checks it
    hint = dict if get_origin(hint) is dict else hint  # its class checks what is in it
    value = list(value) if isinstance(value, tuple) else value
    value = float(value) if hint is float and type(value) is int else value
    try:
        type_validator(name, value, hint)
    except (TypeError, StrictDataclassFieldValidationError) as error:
        kinds = [kind for kind in get_args(hint) if kind is not type(None)] or [hint]
        expected = _TYPE_NAMES.get(kinds[0]) if len(kinds) == 1 else None
        reason = f"expected {expected}" if expected else " ".join(str(error).split())
        raise UserError(f"{name} is {value!r}: {reason}") from error
