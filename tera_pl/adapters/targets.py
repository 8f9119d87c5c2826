"""Check that the modules an adapter targets exist, before anything is loaded or trained."""

import difflib
import re
from collections.abc import Collection

from peft import PeftConfig
from torch import nn

from tera_pl.errors import UserError


def check_targets(model: nn.Module, config: PeftConfig) -> None:
    """Refuse target modules, and modules to save, that the model does not have.

    PEFT itself raises only if no target at all is found; it ignores a misspelled second one, and
    modules to save.

    Args:
        model: The base model; may be on the meta device.
        config: Configuration of any PEFT method.

    Raises:
        UserError: If a target matches no module, with the closest names, or the model lacks a
            layer to transform.
    """
    names = [name for name, _ in model.named_modules() if name]
    _check_layers(model, getattr(config, "layers_to_transform", None))
    _check_list(names, "modules_to_save", getattr(config, "modules_to_save", None) or ())
    targets = getattr(config, "target_modules", None)
    if config.peft_type == "ADAPTION_PROMPT" and isinstance(targets, str):
        targets = [targets]  # here the last part of a name, not a pattern
    if not targets or targets == "all-linear":
        return
    if isinstance(targets, str):
        try:
            found = any(re.fullmatch(targets, name) for name in names)
        except re.error as error:
            raise UserError(
                f"target_modules: {targets!r} is not a regular expression: {error}"
            ) from None
        if not found:
            raise UserError(
                f"{_unknown('target_modules', targets, names)} (a string is a pattern for full "
                "names; a list names modules by their last part)"
            )
        return
    _check_list(names, "target_modules", targets)


def _check_layers(model: nn.Module, layers: int | Collection[int] | None) -> None:
    settings = getattr(model, "config", None)
    count = getattr(settings, "num_hidden_layers", None)
    for layer in [layers] if isinstance(layers, int) else layers or ():
        if count is not None and layer not in range(count):
            raise UserError(
                f"layers_to_transform: the model has no layer {layer!r}: expected 0 to {count - 1}"
            )


def _check_list(names: list[str], field: str, targets: Collection[str]) -> None:
    for target in sorted(targets):
        if not any(name == target or name.endswith(f".{target}") for name in names):
            raise UserError(_unknown(field, target, names))


def _unknown(field: str, target: str, names: list[str]) -> str:
    last_parts = sorted({name.rpartition(".")[2] for name in names} - {str(i) for i in range(999)})
    near = difflib.get_close_matches(target.rpartition(".")[2], last_parts, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(last_parts)}"
    return f"{field}: the model has no module named {target!r}: {hint}"
