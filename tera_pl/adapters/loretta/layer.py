"""Layers that add a LoRETTA update to a frozen linear layer."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tera_pl.adapters.layer import AdapterLayer
from tera_pl.adapters.loretta.config import LorettaConfig
from tera_pl.adapters.loretta.tensor_train import contract_train, draw_cores, plan_train


class LorettaLayer(AdapterLayer):
    """A frozen linear layer with LoRETTA updates, one per adapter.

    Args:
        base_layer: A `Linear`, a quantized linear layer that PEFT knows, or a `Conv1D` of
            transformers, whose weight is transposed.
        **kwargs: What PEFT hands over for quantized layers.
    """

    adapter_layer_names = ("loretta_A", "loretta_B")
    other_param_names = ("loretta_dropout", "loretta_config")

    def __init__(self, base_layer: nn.Module, **kwargs: Any) -> None:
        super().__init__(base_layer, **kwargs)
        self.loretta_A = nn.ModuleDict()
        self.loretta_B = nn.ModuleDict()
        self.loretta_dropout = nn.ModuleDict()
        self.loretta_config: dict[str, LorettaConfig] = {}

    def update_layer(self, adapter_name: str, config: LorettaConfig, inference_mode: bool) -> None:
        """Add an adapter.

        Args:
            adapter_name: Its name.
            config: Its settings.
            inference_mode: Whether it stays frozen.

        Raises:
            ValueError: If a factor cannot be split as asked for.
        """
        r, rank = config.r, config.tensor_rank
        in_modes = plan_train(self.in_features, r, config.in_modes)
        out_modes = plan_train(self.out_features, r, config.out_modes)
        first = draw_cores(in_modes, rank, self.in_features, r)
        second = draw_cores(out_modes, rank, r, self.out_features)
        if config.start == "zero" and config.init_weights:
            second[-1].zero_()
        self.loretta_A[adapter_name] = nn.ParameterList(first)
        self.loretta_B[adapter_name] = nn.ParameterList(second)
        dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        self.loretta_dropout[adapter_name] = dropout
        self.loretta_config[adapter_name] = config
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def get_delta_weight(self, adapter_name: str) -> Tensor:
        """Give the update of an adapter, (alpha / r) (A B)^T, `(out_features, in_features)`.

        Args:
            adapter_name: Its name.

        Returns:
            The update in float32, or float64 for cores of that type; also for a `Conv1D`, whose
            own weight is the transpose.
        """
        left, right = self.get_delta_factors(adapter_name)
        return left @ right

    def get_delta_factors(self, adapter_name: str) -> tuple[Tensor, Tensor]:
        """Give the two factors whose product is the update of an adapter.

        Args:
            adapter_name: Its name.

        Returns:
            (alpha / r) B^T of shape `(out_features, r)` and A^T of shape `(r, in_features)`.
        """
        first, second = self._factors(adapter_name)
        return self._scaling(adapter_name) * second.T, first.T

    def _update(self, adapter_name: str, x: Tensor) -> Tensor:
        first, second = self._factors(adapter_name)
        inputs = self.loretta_dropout[adapter_name](x).to(first.dtype)
        return self._scaling(adapter_name) * F.linear(F.linear(inputs, first.T), second.T)

    def _factors(self, adapter_name: str) -> tuple[Tensor, Tensor]:
        """A `(in_features, r)` and B `(r, out_features)`, in float32 at least."""
        r = self.loretta_config[adapter_name].r
        flat = []
        for container in (self.loretta_A, self.loretta_B):
            cores = container[adapter_name]
            assert isinstance(cores, nn.ParameterList)
            wide = torch.promote_types(cores[0].dtype, torch.float32)
            flat.append(contract_train([core.to(wide) for core in cores]))
        return flat[0].reshape(self.in_features, r), flat[1].reshape(r, self.out_features)

    def _scaling(self, adapter_name: str) -> float:
        config = self.loretta_config[adapter_name]
        return config.alpha / config.r
