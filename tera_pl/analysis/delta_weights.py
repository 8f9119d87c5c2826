"""The weight update of every adapted layer, for any method, and its ranks."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.tuners.vera.layer import VeraLayer
from torch import Tensor, nn

from tera_pl.adapters.factored_layer import FactoredLayer
from tera_pl.adapters.initialization import initial_parameters
from tera_pl.adapters.layer import AdapterLayer
from tera_pl.adapters.tera.layer import TeraLayer
from tera_pl.analysis.merged_layers import TOLERANCE, is_floating, is_transposed, merge_copy
from tera_pl.analysis.spectra import (
    Spectrum,
    singular_values,
    singular_values_of_network,
    singular_values_of_product,
    summarize_values,
)
from tera_pl.distributed.fsdp2 import full_tensor
from tera_pl.errors import UserError
from tera_pl.tensor import full_float32


def iter_delta_weights(
    model: nn.Module, adapter_name: str = "default"
) -> Iterator[tuple[str, Tensor]]:
    """Iterate over the weight updates of an adapted model, one at a time.

    Args:
        model: A model that PEFT has adapted.
        adapter_name: Which adapter.

    Yields:
        The name of the layer in the base model and its weight update, of shape
        `(out_features, in_features)`; see `layer_delta_weight`. Layers whose method adapts
        no matrix are left out, as with prompt methods.
    """
    for name, layer in adapted_layers(model, adapter_name).items():
        yield name, layer_delta_weight(layer, adapter_name)


def iter_spectra(model: nn.Module, adapter_name: str = "default") -> Iterator[tuple[str, Spectrum]]:
    """Compute the ranks of the weight updates of an adapted model, one at a time.

    A weight update that is a product with a small inner size is never multiplied out; of the others
    one is in memory at a time. Each is decomposed on the device of its layer.

    Args:
        model: A model that PEFT has adapted.
        adapter_name: Which adapter.

    Yields:
        The name of the layer in the base model and the ranks of its weight update.

    Raises:
        ValueError: If a weight update has a NaN or infinite entry.
    """
    for name, layer in adapted_layers(model, adapter_name).items():
        values = layer_singular_values(layer, adapter_name)
        yield name, summarize_values(values, delta_weight_shape(layer))


def adapted_layers(model: nn.Module, adapter_name: str = "default") -> dict[str, Any]:
    """Find the layers whose weight is a matrix that an adapter changes.

    Args:
        model: A model that PEFT has adapted.
        adapter_name: Which adapter.

    Returns:
        The layers by their names in the base model.
    """
    return {
        name: layer
        for name, layer in tuner_layers(model, adapter_name).items()
        if isinstance(layer, AdapterLayer) or _is_matrix(layer)
    }


def tuner_layers(model: nn.Module, adapter_name: str = "default") -> dict[str, Any]:
    """Find all layers that have an adapter, whatever the adapter changes.

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
        and any(adapter_name in getattr(layer, key, ()) for key in layer.adapter_layer_names)
    }


@torch.no_grad()
@full_float32()
def layer_delta_weight(layer: Any, adapter_name: str = "default") -> Tensor:
    """Compute the weight update of a layer: its merged weight minus its base weight.

    If the initialization of the adapter has changed the base weight (PiSSA, OLoRA), base weight and
    initial adapter together count as the base weight, for models that `inject` has adapted.

    Args:
        layer: An adapted layer.
        adapter_name: Which adapter.

    Returns:
        `DeltaW` of shape `(out_features, in_features)`, computed in float64 and rounded to float32,
        unless the base is in float64; of shape `(embedding_dim, num_embeddings)` for an embedding.

    Raises:
        UserError: If there is no such matrix, because what the adapter adds is not linear.
    """
    if isinstance(layer, AdapterLayer) and not is_floating(layer):
        # These add `get_delta_weight` to a base of any kind.
        return layer.get_delta_weight(adapter_name)
    weight = layer.get_base_layer().weight
    initial = initial_parameters(layer)
    merged = _merged_weight(layer, adapter_name)
    if initial is None:
        before = full_tensor(weight.detach()).double()
    else:
        before = _merged_weight(layer, adapter_name, initial)
    delta = (merged - before).to(torch.promote_types(weight.dtype, torch.float32))
    return delta.T if is_transposed(layer) else delta


@torch.no_grad()
@full_float32()
def layer_singular_values(layer: Any, adapter_name: str = "default") -> Tensor:
    """Decompose the weight update of a layer, by its structure where that is exact.

    Args:
        layer: An adapted layer.
        adapter_name: Which adapter.

    Returns:
        The `min(out_features, in_features)` singular values in descending order, on the CPU.

    Raises:
        ValueError: If the weight update has a NaN or infinite entry, or there is no weight update.
    """
    full = min(delta_weight_shape(layer))
    factors = _factors(layer, adapter_name)
    if isinstance(layer, TeraLayer):
        values = singular_values_of_network(layer.get_tensor_network(adapter_name))
    elif factors is not None and factors[0].shape[1] < full:
        values = singular_values_of_product(*factors)
    else:
        delta = layer_delta_weight(layer, adapter_name)
        # Zero rows and columns, as where only some tokens are trained, add only zero values.
        nonzero = delta != 0
        values = singular_values(delta[nonzero.any(1)][:, nonzero.any(0)])
    # An inner size above the smaller dimension gives additional values, all zero.
    values = values[:full].cpu()
    return torch.cat([values, values.new_zeros(full - len(values))])


def delta_weight_shape(layer: Any) -> tuple[int, int]:
    """Return `(out_features, in_features)` of an adapted layer."""
    if isinstance(layer, AdapterLayer) or not is_floating(layer):
        return layer.out_features, layer.in_features
    rows, columns = layer.get_base_layer().weight.shape
    return (columns, rows) if is_transposed(layer) else (rows, columns)


def _is_matrix(layer: Any) -> bool:
    weight = getattr(layer.get_base_layer(), "weight", None)
    return isinstance(weight, Tensor) and weight.ndim == 2


def _merged_weight(
    layer: Any, adapter_name: str, values: Mapping[str, Tensor] | None = None
) -> Tensor:
    merged = merge_copy(layer, adapter_name, values)
    if merged.error > TOLERANCE:
        raise UserError(
            "no weight gives what the layer computes with its adapter: the weight update depends "
            "on the input, or PEFT merges it wrongly"
        )
    return merged.parameters["weight"]


def _factors(layer: Any, adapter_name: str) -> tuple[Tensor, Tensor] | None:
    """Two factors whose product is the weight update or its transpose, if the method has them."""
    if initial_parameters(layer) is not None:
        return None
    if isinstance(layer, FactoredLayer):
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
