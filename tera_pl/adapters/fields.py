"""Checks of the fields that the configurations of all methods have in common."""

import dataclasses
import typing

from huggingface_hub.dataclasses import type_validator
from huggingface_hub.errors import StrictDataclassFieldValidationError
from peft import PeftConfig

from tera_pl.errors import UserError

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def check_common_fields(config: PeftConfig) -> None:
    """Turn lists of modules into sets, as PEFT expects, and refuse impossible settings.

    Args:
        config: A configuration with `target_modules`, `exclude_modules`, `layers_to_transform`,
            `layers_pattern` and `dropout`; changed in place.

    Raises:
        UserError: If a value is of another type than its field or no module is named, the
            settings contradict each other, or a probability is none.
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
        raise UserError("layers_pattern is of use only with layers_to_transform: set both")
    dropout = config.dropout
    if not 0 <= dropout < 1:
        raise UserError(f"dropout is {dropout}: expected at least 0 and less than 1")


def check_positive(config: PeftConfig, *names: str) -> None:
    """Refuse fields that are no positive whole numbers.

    Args:
        config: A configuration.
        *names: Names of its fields.

    Raises:
        UserError: If one is not a whole number, or less than one.
    """
    for name in names:
        value = getattr(config, name)
        if type(value) is not int or value < 1:
            raise UserError(f"{name} is {value!r}: expected a whole number of at least 1")


def _check_types(config: PeftConfig) -> None:
    """Refuse values of other types, which a damaged adapter_config.json can hold."""
    own = {
        name
        for cls in type(config).__mro__
        if cls.__module__.startswith("tera_pl.")
        for name in vars(cls).get("__annotations__", {})
    }
    hints = typing.get_type_hints(type(config))
    # PEFT takes names of modules in any collection, and checks them; each class its own
    # choices and what is in mappings.
    for field in dataclasses.fields(config):
        value, hint = getattr(config, field.name), hints[field.name]
        choice = isinstance(value, str) and "Literal" in str(hint)
        if field.name not in own or choice or field.name in {"target_modules", "exclude_modules"}:
            continue
        hint = dict if typing.get_origin(hint) is dict else hint
        value = list(value) if isinstance(value, tuple) else value
        value = float(value) if hint is float and type(value) is int else value
        try:
            type_validator(field.name, value, hint)
        except (TypeError, StrictDataclassFieldValidationError) as error:
            kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)] or [hint]
            expected = _WORDS.get(kinds[0]) if len(kinds) == 1 else None
            reason = f"expected {expected}" if expected else " ".join(str(error).split())
            raise UserError(f"{field.name} is {value!r}: {reason}") from error
