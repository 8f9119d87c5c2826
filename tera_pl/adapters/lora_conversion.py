"""Conversion of adapters of this package to LoRA, by PEFT's own `peft.convert_to_lora`."""

from typing import Any

from peft.tuners.lora import conversion
from torch import Tensor, nn

from tera_pl.adapters.layer import AdapterLayer

_convert = conversion._convert_module_to_lora


class _AsStored:
    """A layer whose weight update is laid out as its base weight, which the converter expects.

    `AdapterLayer.get_delta_weight` has the shape `(out_features, in_features)` for a `Conv1D` too,
    whose weight is the transpose.

    Args:
        layer: The layer.
    """

    def __init__(self, layer: AdapterLayer) -> None:
        self.layer = layer

    def get_base_layer(self) -> nn.Module:
        """Give the layer itself."""
        return self.layer.get_base_layer()

    def get_delta_weight(self, adapter_name: str) -> Tensor:
        """Give the weight update in the shape of the base weight."""
        return self.layer.delta_weight_as_stored(adapter_name)


def _convert_module(module: Any, rank: float, adapter_name: str = "default") -> Any:
    layer = _AsStored(module) if isinstance(module, AdapterLayer) else module
    return _convert(layer, rank, adapter_name)


def register_conversion() -> None:
    """Make `peft.convert_to_lora` and `peft.save_as_lora` right for `Conv1D` layers.

    PEFT has no hook for the orientation; its function is replaced by one that calls it.
    """
    conversion._convert_module_to_lora = _convert_module
