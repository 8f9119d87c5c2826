"""Initializations that change the base weight, such as PiSSA and OLoRA.

They subtract the initial adapter from the frozen weight, so that both together are the pretrained
weight. The weight update is then the trained adapter less the initial one.
"""

from collections.abc import Mapping

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

VALUES = 64


def sample_weights(model: nn.Module) -> dict[str, Tensor]:
    """Copy a few values of every weight, to find out which weights an adapter changes.

    Args:
        model: A model without adapters; on the meta device nothing is copied.

    Returns:
        Up to `VALUES` evenly spaced values by parameter name.
    """
    return {
        name: _sample(parameter)
        for name, parameter in model.named_parameters()
        if parameter.device.type != "meta"
    }


def remember_initialization(model: nn.Module, before: Mapping[str, Tensor]) -> None:
    """Store the initial adapter of every layer whose base weight it has changed.

    Args:
        model: The adapted model before its first step; the layers get an attribute.
        before: Result of `sample_weights` before the adapter was injected.
    """
    for name, layer in model.named_modules():
        if not isinstance(layer, BaseTunerLayer):
            continue
        weight = getattr(layer.get_base_layer(), "weight", None)
        old = before.get(f"{name.removeprefix('base_model.model.')}.weight")
        if old is not None and weight is not None and not torch.equal(old, _sample(weight)):
            layer.initial_parameters = {
                name: parameter.detach().clone()
                for name, parameter in layer.named_parameters()
                if parameter.requires_grad
            }


def initial_parameters(layer: nn.Module) -> dict[str, Tensor] | None:
    """Return what `remember_initialization` stored.

    Args:
        layer: An adapted layer.

    Returns:
        Tensors by parameter name; null if the base weight was not changed.
    """
    return layer.__dict__.get("initial_parameters")


def _sample(parameter: Tensor) -> Tensor:
    flat = parameter.detach().reshape(-1)
    return flat[:: max(1, flat.numel() // VALUES)].clone()
