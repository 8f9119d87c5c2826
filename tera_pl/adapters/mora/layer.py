"""Layers that add a MoRA update to a frozen linear layer."""

from typing import Any

import torch
from torch import Tensor, nn

from tera_pl.adapters.layer import AdapterLayer
from tera_pl.adapters.mora.compression import apply, square_size, weight
from tera_pl.adapters.mora.config import MoraConfig


class MoraLayer(AdapterLayer):
    """A frozen linear layer with MoRA updates, one per adapter.

    Args:
        base_layer: A `Linear`, a quantized linear layer that PEFT knows, or a `Conv1D` of
            transformers, whose weight is transposed.
        **kwargs: What PEFT hands over for quantized layers.
    """

    adapter_layer_names = ("mora_matrix",)
    other_param_names = ("mora_dropout", "mora_config")

    def __init__(self, base_layer: nn.Module, **kwargs: Any) -> None:
        super().__init__(base_layer, **kwargs)
        self.mora_matrix = nn.ParameterDict()
        self.mora_dropout = nn.ModuleDict()
        self.mora_config: dict[str, MoraConfig] = {}

    def update_layer(self, adapter_name: str, config: MoraConfig, inference_mode: bool) -> None:
        """Add an adapter.

        Args:
            adapter_name: Its name.
            config: Its settings.
            inference_mode: Whether it stays frozen.

        Raises:
            ValueError: If no matrix has as few numbers as `r` asks for.
        """
        size = config.r_hat
        if size is None:
            size = square_size(self.in_features, self.out_features, config.r, config.form)
        matrix = torch.zeros(size, size)
        if not config.init_weights:
            nn.init.normal_(matrix, std=size**-0.5)
        self.mora_matrix[adapter_name] = nn.Parameter(matrix)
        dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        self.mora_dropout[adapter_name] = dropout
        self.mora_config[adapter_name] = config
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def get_delta_weight(self, adapter_name: str) -> Tensor:
        """Give the update of an adapter, of shape `(out_features, in_features)`.

        Args:
            adapter_name: Its name.

        Returns:
            The update in float32, or float64 for a matrix of that type; also for a `Conv1D`, whose
            own weight is the transpose.
        """
        matrix = self.mora_matrix[adapter_name]
        matrix = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
        form = self.mora_config[adapter_name].form
        return weight(matrix, self.in_features, self.out_features, form)

    def _update(self, adapter_name: str, x: Tensor) -> Tensor:
        matrix = self.mora_matrix[adapter_name]
        inputs = self.mora_dropout[adapter_name](x).to(matrix.dtype)
        return apply(matrix, inputs, self.out_features, self.mora_config[adapter_name].form)
