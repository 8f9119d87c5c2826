"""The true weight update of every adapted layer, whatever the method, and its ranks."""

from collections.abc import Iterator
from typing import Any

import torch
from peft.tuners.hira.layer import HiraLayer
from peft.tuners.ia3.layer import IA3Layer
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.tuners.vera.layer import VeraLayer
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor, nn

from tera_pl.adapters.loretta.layer import LorettaLayer
from tera_pl.adapters.lotr.layer import LotrLayer
from tera_pl.adapters.tera.layer import TeraLayer
from tera_pl.analysis.spectra import (
    Spectrum,
    singular_values,
    singular_values_of_network,
    singular_values_of_product,
    summarize_values,
)
from tera_pl.sharding import whole
from tera_pl.tensor import full_float32


def iter_updates(model: nn.Module, adapter_name: str = "default") -> Iterator[tuple[str, Tensor]]:
    """Walk over the weight updates of an adapted model, one at a time.

    Args:
        model: A model that PEFT has adapted.
        adapter_name: Which adapter.

    Yields:
        The name of the layer in the base model and its update, of shape
        `(out_features, in_features)`. Layers whose method defines no update matrix, such as prompt
        methods, do not appear.
    """
    for name, layer in adapted_layers(model, adapter_name).items():
        yield name, layer_update(layer, adapter_name)


def iter_singular_values(
    model: nn.Module, adapter_name: str = "default"
) -> Iterator[tuple[str, Tensor]]:
    """Decompose the weight updates of an adapted model, one at a time.

    An update that is a product with a narrow middle is never multiplied out; of the others one is
    in memory at a time. Each is decomposed on the device of its layer.

    Args:
        model: A model that PEFT has adapted.
        adapter_name: Which adapter.

    Yields:
        The name of the layer in the base model and its `min(out_features, in_features)` singular
        values in descending order, on the CPU.

    Raises:
        ValueError: If an update has a NaN or an infinite entry.
    """
    for name, layer in adapted_layers(model, adapter_name).items():
        yield name, layer_singular_values(layer, adapter_name)


def iter_spectra(model: nn.Module, adapter_name: str = "default") -> Iterator[tuple[str, Spectrum]]:
    """Compute the ranks of the weight updates of an adapted model, one at a time.

    Args:
        model: A model that PEFT has adapted.
        adapter_name: Which adapter.

    Yields:
        The name of the layer in the base model and the ranks of its update.

    Raises:
        ValueError: If an update has a NaN or an infinite entry.
    """
    for name, layer in adapted_layers(model, adapter_name).items():
        values = layer_singular_values(layer, adapter_name)
        yield name, summarize_values(values, (layer.out_features, layer.in_features))


def adapted_layers(model: nn.Module, adapter_name: str = "default") -> dict[str, Any]:
    """Find the layers with a weight update.

    Args:
        model: A model that PEFT has adapted.
        adapter_name: Which adapter.

    Returns:
        The layers by their names in the base model.
    """
    prefix = "base_model.model."
    return {
        name.removeprefix(prefix): layer
        for name, layer in model.named_modules()
        if isinstance(layer, BaseTunerLayer)
        and (hasattr(layer, "get_delta_weight") or isinstance(layer, IA3Layer))
        and any(adapter_name in getattr(layer, key) for key in layer.adapter_layer_names)
    }


@torch.no_grad()
@full_float32()
def layer_update(layer: Any, adapter_name: str = "default") -> Tensor:
    """Give the true update of a layer.

    Args:
        layer: An adapted layer.
        adapter_name: Which adapter.

    Returns:
        `DeltaW` of shape `(out_features, in_features)`.
    """
    if isinstance(layer, IA3Layer):
        return _base_weight(layer) * (layer.ia3_l[adapter_name] - 1)
    delta = layer.get_delta_weight(adapter_name)
    if isinstance(layer, HiraLayer):
        # PEFT returns the factor B A of HiRA; its update is W0 * (B A) (Huang et al., 2025, Eq. 5).
        return _base_weight(layer) * delta
    if isinstance(layer, LoraLayer) and adapter_name in layer.lora_magnitude_vector:
        # And B A of DoRA, whose rows get length m after the sum (Liu et al., 2024, Eq. 5).
        weight = _base_weight(layer)
        moved = weight + delta
        magnitude = layer.lora_magnitude_vector[adapter_name].weight
        direction = 0 if getattr(layer, "fan_in_fan_out", False) else 1
        length = torch.linalg.norm(moved, dim=direction)
        return moved * (magnitude / length).unsqueeze(direction) - weight
    return delta


@torch.no_grad()
@full_float32()
def layer_singular_values(layer: Any, adapter_name: str = "default") -> Tensor:
    """Decompose the update of a layer, by its structure where that is exact.

    Args:
        layer: An adapted layer.
        adapter_name: Which adapter.

    Returns:
        The `min(out_features, in_features)` singular values in descending order, on the CPU.

    Raises:
        ValueError: If the update has a NaN or an infinite entry.
    """
    full = min(layer.out_features, layer.in_features)
    factors = _factors(layer, adapter_name)
    if isinstance(layer, TeraLayer):
        values = singular_values_of_network(layer.get_tensor_network(adapter_name))
    elif factors is not None and factors[0].shape[1] < full:
        values = singular_values_of_product(*factors)
    else:
        values = singular_values(layer_update(layer, adapter_name))
    # An inner size above the smaller side may leave more values than there are: all zero.
    values = values[:full].cpu()
    return torch.cat([values, values.new_zeros(full - len(values))])


def _factors(layer: Any, adapter_name: str) -> tuple[Tensor, Tensor] | None:
    """Two factors whose product is the update or its transpose, if that is what it is."""
    if isinstance(layer, LorettaLayer | LotrLayer):
        return layer.get_delta_factors(adapter_name)
    if isinstance(layer, VeraLayer):
        outer, inner = layer.vera_lambda_b[adapter_name], layer.vera_lambda_d[adapter_name]
        left = layer.vera_B[adapter_name][: layer.out_features].to(outer.device).double()
        right = layer.vera_A[adapter_name][:, : layer.in_features].to(inner.device).double()
        return outer.unsqueeze(1) * left, inner.unsqueeze(1) * right
    if isinstance(layer, LoraLayer) and adapter_name not in layer.lora_variant:
        pair = [side[adapter_name] for side in (layer.lora_B, layer.lora_A) if adapter_name in side]
        if len(pair) == 2 and all(isinstance(linear, nn.Linear) for linear in pair):
            return layer.scaling[adapter_name] * pair[0].weight.double(), pair[1].weight
    return None


def _base_weight(layer: Any) -> Tensor:
    return whole(dequantize_module_weight(layer.get_base_layer()))
