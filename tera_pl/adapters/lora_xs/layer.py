"""Layers that add a LoRA-XS weight update to a frozen linear layer."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from tera_pl.adapters.factored_layer import FactoredLayer
from tera_pl.adapters.lora_xs.config import LoraXsConfig
from tera_pl.errors import UserError


class SingularVectors(nn.Module):
    """The frozen factors of one adapter in one layer.

    Args:
        weight: The base weight, `(out_features, in_features)`.
        r: Number of singular values.
    """

    left: Tensor
    right: Tensor

    def __init__(self, weight: Tensor, r: int) -> None:
        super().__init__()
        u, values, v = torch.linalg.svd(weight, full_matrices=False)
        u, values, v = u[:, :r], values[:r], v[:r]
        # The sign of a pair is arbitrary: the largest entry of v is positive.
        largest = v.gather(1, v.abs().argmax(1, keepdim=True))
        sign = torch.where(largest < 0, -1.0, 1.0).to(v.dtype)
        self.register_buffer("left", (u * (values * sign.squeeze(1))).contiguous())
        self.register_buffer("right", (v * sign).contiguous())


class LoraXsLayer(FactoredLayer):
    """A frozen linear layer with LoRA-XS weight updates, one per adapter.

    Args:
        base_layer: As in `AdapterLayer`.
        **kwargs: As in `AdapterLayer`.
    """

    adapter_layer_names = ("loraxs_matrix",)
    other_param_names = (*FactoredLayer.other_param_names, "loraxs_vectors")

    def __init__(self, base_layer: nn.Module, **kwargs: Any) -> None:
        super().__init__(base_layer, **kwargs)
        self.loraxs_matrix = nn.ParameterDict()
        self.loraxs_vectors = nn.ModuleDict()

    @torch.no_grad()
    def create_parameters(self, adapter_name: str, config: LoraXsConfig, **shared: Any) -> None:
        """Decompose the base weight, and create the matrix.

        Args:
            adapter_name: Its name.
            config: Its configuration.
            **shared: Unused.

        Raises:
            UserError: If `r` is above the smaller dimension of the layer.
        """
        r, full = config.r, min(self.in_features, self.out_features)
        if r > full:
            raise UserError(
                f"r is {r}, but the layer has {self.in_features} inputs and {self.out_features} "
                f"outputs, so {full} singular values: give an r of at most {full}"
            )
        weight = self.get_base_weight().detach()
        weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
        if isinstance(self.get_base_layer(), Conv1D):
            weight = weight.T
        self.loraxs_vectors[adapter_name] = SingularVectors(weight, r)
        std = config.init_std if config.init_weights else r**-0.5
        self.loraxs_matrix[adapter_name] = nn.Parameter(std * torch.randn(r, r))

    def get_delta_factors(self, adapter_name: str) -> tuple[Tensor, Tensor]:
        """Form two factors of the weight update.

        Args:
            adapter_name: Its name.

        Returns:
            U S R, `(out_features, r)`, times the scaling, and V^T, `(r, in_features)`.
        """
        matrix, left, right = self._parts(adapter_name)
        scaling = self.configs[adapter_name].scaling
        return scaling * (left @ matrix), right

    def apply_delta_weight(self, adapter_name: str, x: Tensor) -> Tensor:
        """Multiply the input by the three factors, one after the other.

        Args:
            adapter_name: Its name.
            x: The input after dropout, `(..., in_features)`.

        Returns:
            Tensor of shape `(..., out_features)`, in the dtype of the matrix.
        """
        matrix, left, right = self._parts(adapter_name)
        scaling = self.configs[adapter_name].scaling
        return F.linear(F.linear(F.linear(x.to(right.dtype), right), scaling * matrix), left)

    def _parts(self, adapter_name: str) -> tuple[Tensor, Tensor, Tensor]:
        """The matrix and its two frozen factors in one dtype, float32 or wider."""
        matrix = self.loraxs_matrix[adapter_name]
        matrix = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
        vectors = self.loraxs_vectors[adapter_name]
        assert isinstance(vectors, SingularVectors)
        return matrix, vectors.left.to(matrix.dtype), vectors.right.to(matrix.dtype)
