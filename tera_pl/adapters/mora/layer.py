"""Layers that add a MoRA weight update to a frozen linear layer."""

from typing import Any

import torch
from torch import Tensor, nn

from tera_pl.adapters.layer import AdapterLayer
from tera_pl.adapters.mora.compression import apply, square_size, weight
from tera_pl.adapters.mora.config import MoraConfig


class MoraLayer(AdapterLayer):
    """A frozen linear layer with MoRA weight updates, one per adapter.

    Args:
        base_layer: As in `AdapterLayer`.
        **kwargs: As in `AdapterLayer`.
    """

    adapter_layer_names = ("mora_matrix",)

    def __init__(self, base_layer: nn.Module, **kwargs: Any) -> None:
        super().__init__(base_layer, **kwargs)
        self.mora_matrix = nn.ParameterDict()

    def create_parameters(self, adapter_name: str, config: MoraConfig, **shared: Any) -> None:
        """Create the square matrix, zero unless `init_weights` is false.

        Args:
            adapter_name: Its name.
            config: Its configuration.
            **shared: Unused.

        Raises:
            ValueError: If `r` is too small for a square matrix of at least one row.
        """
        size = config.r_hat
        if size is None:
            size = square_size(self.in_features, self.out_features, config.r, config.form)
        matrix = torch.zeros(size, size)
        if not config.init_weights:
            nn.init.normal_(matrix, std=size**-0.5)
        self.mora_matrix[adapter_name] = nn.Parameter(matrix)

    def get_delta_weight(self, adapter_name: str) -> Tensor:
        """Form the matrix of compression, square matrix and decompression.

        Args:
            adapter_name: Its name.

        Returns:
            As in `AdapterLayer`.
        """
        matrix = self.mora_matrix[adapter_name]
        matrix = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
        form = self.configs[adapter_name].form
        return weight(matrix, self.in_features, self.out_features, form)

    def apply_delta_weight(self, adapter_name: str, x: Tensor) -> Tensor:
        """Compress the input, multiply it by the square matrix, decompress the result.

        Args:
            adapter_name: Its name.
            x: The input after dropout, `(..., in_features)`.

        Returns:
            Tensor of shape `(..., out_features)`, in the dtype of the matrix.
        """
        matrix = self.mora_matrix[adapter_name]
        form = self.configs[adapter_name].form
        return apply(matrix, x.to(matrix.dtype), self.out_features, form)
