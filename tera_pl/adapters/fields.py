"""Checks of the fields that the configurations of all methods have in common."""

from peft import PeftConfig

from tera_pl.errors import UserError


def check_common_fields(config: PeftConfig) -> None:
    """Turn lists of modules into sets, as PEFT expects, and refuse impossible settings.

    Args:
        config: A configuration with `target_modules`, `exclude_modules`, `layers_to_transform`,
            `layers_pattern` and `dropout`; changed in place.

    Raises:
        UserError: If the settings contradict each other, or a probability is none.
    """
    for name in ("target_modules", "exclude_modules"):
        value = getattr(config, name)
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
