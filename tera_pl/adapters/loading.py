"""Check the tensors of an adapter's file before a model takes them."""

from collections.abc import Mapping

import torch
from peft.tuners.tuners_utils import (
    _filter_state_dict_by_key_prefixes,
    _get_tuner_state_dict_key_prefixes,
)
from peft.utils import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from tera_pl.errors import UserError

MODEL_PREFIX = "base_model.model."


def names_in_file(
    model: nn.Module, adapter_name: str, state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Undo the renaming that PEFT begins a load with: that of modules trained in full.

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
    """Refuse tensors that are not those of the adapter.

    Args:
        model: The adapted model.
        adapter_name: Name of the adapter.
        state: Tensors of the file by their names in the model.

    Raises:
        UserError: If one is missing, unknown, of another shape, no floating point or not finite.
    """
    expected = model.state_dict()
    if not any(name.startswith(MODEL_PREFIX) for name in expected):
        state = {name.removeprefix(MODEL_PREFIX): value for name, value in state.items()}
    prefixes = _get_tuner_state_dict_key_prefixes(model, adapter_name=adapter_name)
    own = _filter_state_dict_by_key_prefixes(expected, prefixes).keys()
    missing, unknown = sorted(own - state.keys()), sorted(state.keys() - expected.keys())
    if missing or unknown:
        raise UserError(
            f"adapter {adapter_name!r}: its file lacks {len(missing)} tensors and has "
            f"{len(unknown)} that the model has not, for example "
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
