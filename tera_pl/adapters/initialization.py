"""Initializations that move the base weight: PiSSA, OLoRA and their kind.

They take out of the frozen weight what the adapter begins with, so that both together are the
pretrained weight. What training has changed is then the adapter less its beginning.
"""

from collections.abc import Mapping

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

VALUES = 64


def sample_weights(model: nn.Module) -> dict[str, Tensor]:
    """Copy a few values of every weight, to find out which ones an adapter moves.

    Args:
        model: A model without adapters; the meta device will do, and nothing is copied there.

    Returns:
        Up to `VALUES` evenly spaced values by the name of a parameter.
    """
    return {
        name: _sample(parameter)
        for name, parameter in model.named_parameters()
        if parameter.device.type != "meta"
    }


def remember_initialization(model: nn.Module, before: Mapping[str, Tensor]) -> None:
    """Keep the initial adapter of every layer whose base weight it has moved.

    Args:
        model: The adapted model, before its first step; the layers are given an attribute.
        before: What `sample_weights` found before the adapter was injected.
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
    """Give what `remember_initialization` kept.

    Args:
        layer: An adapted layer.

    Returns:
        Tensors by the name of a parameter of the layer; null where the base weight was not moved.
    """
    return layer.__dict__.get("initial_parameters")


def _sample(parameter: Tensor) -> Tensor:
    flat = parameter.detach().reshape(-1)
    return flat[:: max(1, flat.numel() // VALUES)].clone()
