"""Check the tensors of an adapter's file before they are loaded into a model."""

from collections.abc import Mapping

import torch
from peft.utils import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from tera_pl.adapters.peft_private import adapter_key_prefixes, filter_by_prefixes
from tera_pl.errors import UserError

MODEL_PREFIX = "base_model.model."


def names_in_file(
    model: nn.Module, adapter_name: str, state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Undo the renaming of fully trained modules with which PEFT begins a load.

    Args:
        model: The adapted model.
        adapter_name: Name of the adapter.
        state: Tensors of the file, renamed.

    Returns:
        Tensors by their names in the file.
    """
    names = {}
    for name, module in model.named_modules():
        if isinstance(module, AuxiliaryTrainingWrapper):
            for saved, loaded in module.adapter_state_dict_load_map(adapter_name).items():
                names[f"{name}.{loaded}"] = f"{name}.{saved}"
    return {names.get(name, name): value for name, value in state.items()}


def check_loaded(model: nn.Module, adapter_name: str, state: Mapping[str, Tensor]) -> None:
    """Refuse tensors that do not belong to the adapter.

    Args:
        model: The adapted model.
        adapter_name: Name of the adapter.
        state: Tensors of the file by their names in the model.

    Raises:
        UserError: If one is missing, unknown, of another shape or dtype, or not finite.
    """
    expected = model.state_dict()
    if not any(name.startswith(MODEL_PREFIX) for name in expected):
        state = {name.removeprefix(MODEL_PREFIX): value for name, value in state.items()}
    prefixes = adapter_key_prefixes(model, adapter_name=adapter_name)
    own = filter_by_prefixes(expected, prefixes).keys()
    missing, unknown = sorted(own - state.keys()), sorted(state.keys() - expected.keys())
    if missing or unknown:
        raise UserError(
            f"adapter {adapter_name!r}: its file lacks {len(missing)} tensors and has "
            f"{len(unknown)} unknown ones, for example "
            f"{', '.join([*missing[:2], *unknown[:2]])}: it is damaged, or was made with other "
            "settings or for another base model"
        )
    for name, value in state.items():
        shape = tuple(expected[name].shape)
        if tuple(value.shape) != shape or not value.is_floating_point():
            raise UserError(
                f"adapter {adapter_name!r}: {name} is {value.dtype} of shape "
                f"{tuple(value.shape)}: expected floating point of shape {shape}"
            )
        if not torch.isfinite(value).all():
            raise UserError(f"adapter {adapter_name!r}: {name} has values that are NaN or infinite")
