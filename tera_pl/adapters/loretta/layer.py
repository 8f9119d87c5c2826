"""Layers that add a LoRETTA weight update to a frozen linear layer."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tera_pl.adapters.factored_layer import FactoredLayer
from tera_pl.adapters.loretta.config import LorettaConfig
from tera_pl.adapters.loretta.tensor_train import contract_train, draw_cores, plan_train


class LorettaLayer(FactoredLayer):
    """A frozen linear layer with LoRETTA weight updates, one per adapter.

    Args:
        base_layer: As in `AdapterLayer`.
        **kwargs: As in `AdapterLayer`.
    """

    adapter_layer_names = ("loretta_A", "loretta_B")

    def __init__(self, base_layer: nn.Module, **kwargs: Any) -> None:
        super().__init__(base_layer, **kwargs)
        self.loretta_A = nn.ModuleDict()
        self.loretta_B = nn.ModuleDict()

    def create_parameters(self, adapter_name: str, config: LorettaConfig, **shared: Any) -> None:
        """Draw the tensor-train cores of both factors.

        Args:
            adapter_name: Its name.
            config: Its configuration.
            **shared: Unused.

        Raises:
            ValueError: If a factor cannot be tensorized as configured.
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

    def get_delta_factors(self, adapter_name: str) -> tuple[Tensor, Tensor]:
        """Return the two factors whose product is the weight update of an adapter.

        Args:
            adapter_name: Its name.

        Returns:
            (alpha / r) B^T of shape `(out_features, r)` and A^T of shape `(r, in_features)`.
        """
        first, second = self._factors(adapter_name)
        return self._scaling(adapter_name) * second.T, first.T

    def apply_delta_weight(self, adapter_name: str, x: Tensor) -> Tensor:
        """Multiply by A, then by B.

        Args:
            adapter_name: Its name.
            x: The input after dropout, `(..., in_features)`.

        Returns:
            Tensor of shape `(..., out_features)`, in the dtype of the factors.
        """
        first, second = self._factors(adapter_name)
        inner = F.linear(x.to(first.dtype), first.T)
        return self._scaling(adapter_name) * F.linear(inner, second.T)

    def _factors(self, adapter_name: str) -> tuple[Tensor, Tensor]:
        """A `(in_features, r)` and B `(r, out_features)`, in float32 at least."""
        r = self.configs[adapter_name].r
        flat = []
        for container in (self.loretta_A, self.loretta_B):
            cores = container[adapter_name]
            assert isinstance(cores, nn.ParameterList)
            wide = torch.promote_types(cores[0].dtype, torch.float32)
            flat.append(contract_train([core.to(wide) for core in cores]))
        return flat[0].reshape(self.in_features, r), flat[1].reshape(r, self.out_features)

    def _scaling(self, adapter_name: str) -> float:
        config: LorettaConfig = self.configs[adapter_name]
        return config.alpha / config.r
