"""The true weight update of every adapted layer, whatever the method."""

from collections.abc import Iterator

import torch
from peft.tuners.hira.layer import HiraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn


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
    prefix = "base_model.model."
    for name, layer in model.named_modules():
        if not isinstance(layer, BaseTunerLayer) or not hasattr(layer, "get_delta_weight"):
            continue
        with torch.no_grad():
            yield name.removeprefix(prefix), _update(layer, adapter_name)


def _update(layer: BaseTunerLayer, adapter_name: str) -> Tensor:
    delta = layer.get_delta_weight(adapter_name)
    # PEFT returns the factor B A of HiRA; its update is W0 * (B A) (Huang et al., 2025, Eq. 5).
    return layer.get_base_layer().weight * delta if isinstance(layer, HiraLayer) else delta
