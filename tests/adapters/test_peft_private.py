"""The private names of PEFT that the adapters use are where they were, with their signatures."""

import inspect
from collections.abc import Callable
from enum import EnumMeta

import peft.tuners.tuners_utils
import pytest
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import PeftType
from torch import nn

from tera_pl.adapters import lora_conversion as conversion
from tera_pl.adapters import peft_private
from tera_pl.adapters.layer import AdapterLayer
from tera_pl.adapters.model import AdapterModel

FUNCTIONS = {
    "_get_in_out_features": ["module"],
    "_get_tuner_state_dict_key_prefixes": ["model", "adapter_name"],
    "_filter_state_dict_by_key_prefixes": ["state_dict", "prefixes"],
}
# Methods that a subclass here overrides: PEFT must still call them, with these parameters.
OVERRIDDEN = {
    "_create_and_replace": [
        "self",
        "peft_config",
        "adapter_name",
        "target",
        "target_name",
        "parent",
        "current_key",
        "parameter_name",
    ],
    "_cast_adapter_dtype": ["self", "adapter_name", "autocast_adapter_dtype"],
    "_get_adapter_state_dict": [
        "model",
        "config",
        "adapter_name",
        "state_dict",
        "unwanted_adapter_names",
    ],
    "_remap_adapter_state_dict_for_load": ["model", "config", "adapter_name", "state_dict"],
}
# Who calls them.
CALLERS = {
    "_create_and_replace": BaseTuner.inject_adapter,
    "_cast_adapter_dtype": PeftModel.__init__,
    "_get_adapter_state_dict": peft.get_peft_model_state_dict,
    "_remap_adapter_state_dict_for_load": peft.set_peft_model_state_dict,
}
# Methods that the adapters call.
CALLED = [
    # Replaced by one that knows the orientation of a Conv1D: lora_conversion.py.
    (conversion._convert, ["module", "rank", "adapter_name"]),
    (BaseTuner._replace_module, ["self", "parent", "child_name", "new_module", "child"]),
    (BaseTunerLayer._move_adapter_to_device_of_base_layer, ["self", "adapter_name", "device"]),
    (BaseTunerLayer._get_base_layer_device_and_dtype, ["self", "base_layer"]),
]


def parameters(function: Callable) -> list[str]:
    return list(inspect.signature(function).parameters)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_private_functions(name: str) -> None:
    assert parameters(getattr(peft.tuners.tuners_utils, name)) == FUNCTIONS[name]


def test_the_module_imports_these_and_no_others() -> None:
    expected = {getattr(peft.tuners.tuners_utils, name) for name in FUNCTIONS}
    assert {getattr(peft_private, name) for name in peft_private.__all__} == expected


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_overridden_methods(name: str) -> None:
    assert parameters(getattr(BaseTuner, name)) == OVERRIDDEN[name]
    assert name in CALLERS[name].__code__.co_names


@pytest.mark.parametrize(("method", "expected"), CALLED)
def test_called_methods(method: Callable, expected: list[str]) -> None:
    assert parameters(method) == expected


def test_every_private_override_of_peft_is_listed() -> None:
    def private(*classes: type) -> set[str]:
        return {name for cls in classes for name in vars(cls) if name[0] == "_" != name[1]}

    def tree(root: type) -> list[type]:
        return [root, *(cls for child in root.__subclasses__() for cls in tree(child))]

    ours = [*tree(AdapterModel), *tree(AdapterLayer)]
    theirs = private(*BaseTuner.__mro__, *BaseTunerLayer.__mro__) - private(nn.Module)
    overridden = {name for name in private(*ours) & theirs if callable(getattr(BaseTuner, name))}
    assert overridden <= OVERRIDDEN.keys()


def test_forward_hooks_are_a_context_around_a_forward_pass() -> None:
    # BaseTuner has no such method: PeftModel looks for it and passes all arguments of the call.
    source = inspect.getsource(PeftModel._enable_peft_forward_hooks)
    assert 'hasattr(self.base_model, "_enable_peft_forward_hooks")' in source
    assert "with self.base_model._enable_peft_forward_hooks(*args, **kwargs)" in source
    assert parameters(AdapterModel._enable_peft_forward_hooks) == ["self", "args", "kwargs"]


def test_attributes_of_layers() -> None:
    layer = AdapterLayer(nn.Linear(2, 3))
    assert layer.disable_adapters is False
    layer._disable_adapters = True
    assert layer.disable_adapters is True


def test_members_can_be_added_to_the_enumeration_of_methods() -> None:
    assert isinstance(PeftType, EnumMeta)
    assert issubclass(PeftType, str)
    for mapping in (PeftType._member_map_, PeftType._value2member_map_):
        assert mapping["LORA"] is PeftType.LORA
    assert "LORA" in PeftType._member_names_
