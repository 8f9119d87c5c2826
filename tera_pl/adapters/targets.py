"""Choose the modules that an adapter targets, and check that they exist."""

import difflib
import re
from collections.abc import Collection

from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from torch import nn
from transformers.pytorch_utils import Conv1D

from tera_pl.errors import UserError

QUERY_AND_VALUE = ["q_proj", "v_proj"]
# Names of query and value projections, of which the last are one layer together with the key.
ATTENTION_NAMES = (
    QUERY_AND_VALUE,
    ["query", "value"],
    ["q", "v"],
    ["qkv_proj"],
    ["query_key_value"],
    ["c_attn"],
    ["Wqkv"],
)


def choose_targets(model: nn.Module, config: PeftConfig) -> str | None:
    """Set the target modules of a method that adapts query and value, where PEFT has no default.

    Args:
        model: The base model of transformers; may be on the meta device.
        config: Configuration of any PEFT method; changed in place.

    Returns:
        One line that names the targets, or null if nothing was chosen here.

    Raises:
        UserError: If PEFT has no default for the model, and nothing here does.
    """
    if not hasattr(config, "target_modules") or config.target_modules is not None:
        return None
    tuner = PEFT_TYPE_TO_TUNER_MAPPING.get(config.peft_type)
    defaults = getattr(tuner, "target_module_mapping", None)
    kind = getattr(getattr(model, "config", None), "model_type", None)
    if not defaults or kind in defaults:
        return None
    layers = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    }
    names = next((names for names in ATTENTION_NAMES if layers.issuperset(names)), None)
    if names is None or defaults.get("llama") != QUERY_AND_VALUE:
        raise UserError(
            f"target_modules: {type(config).__name__} has no default for {kind}: expected names of "
            f"modules, for example of the linear layers {', '.join(sorted(layers))}"
        )
    config.target_modules = set(names)
    return f"target_modules: PEFT has no default for {kind}: {', '.join(names)} are adapted"


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
