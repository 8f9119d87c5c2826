"""Layers that add a LoTR update to a frozen linear layer."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tera_pl.adapters.layer import AdapterLayer
from tera_pl.adapters.lotr.config import LotrConfig


class SharedFactors(nn.Module):
    """Left and right factor of one adapter, trained, held by all layers that share them.

    Layers share the module, not the parameters: torch replaces parameters inside of modules when it
    moves, casts or loads them.

    Args:
        out_features: Size of the outputs.
        in_features: Size of the inputs.
        rank: Size of the cores.
        group: What the sharing layers have in common.
    """

    def __init__(self, out_features: int, in_features: int, rank: int, group: object) -> None:
        super().__init__()
        self.left = nn.Parameter(torch.randn(out_features, rank))
        self.right = nn.Parameter(torch.randn(rank, in_features))
        self.group = group


class LotrLayer(AdapterLayer):
    """A frozen linear layer with LoTR updates, one per adapter.

    Args:
        base_layer: A `Linear`, a quantized linear layer that PEFT knows, or a `Conv1D` of
            transformers, whose weight is transposed.
        **kwargs: What PEFT hands over for quantized layers.
    """

    adapter_layer_names = ("lotr_shared", "lotr_core")
    other_param_names = ("lotr_dropout", "lotr_config")

    def __init__(self, base_layer: nn.Module, **kwargs: Any) -> None:
        super().__init__(base_layer, **kwargs)
        self.lotr_shared = nn.ModuleDict()
        self.lotr_core = nn.ParameterDict()
        self.lotr_dropout = nn.ModuleDict()
        self.lotr_config: dict[str, LotrConfig] = {}

    def update_layer(
        self, adapter_name: str, shared: SharedFactors, config: LotrConfig, inference_mode: bool
    ) -> None:
        """Add an adapter.

        Args:
            adapter_name: Its name.
            shared: Its left and right factor, perhaps in use by other layers already.
            config: Its settings.
            inference_mode: Whether it stays frozen.
        """
        core = torch.zeros(config.r, config.r)
        if not config.init_weights:
            nn.init.normal_(core, std=config.r**-0.5)
        self.lotr_shared[adapter_name] = shared
        self.lotr_core[adapter_name] = nn.Parameter(core)
        dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        self.lotr_dropout[adapter_name] = dropout
        self.lotr_config[adapter_name] = config
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def get_delta_weight(self, adapter_name: str) -> Tensor:
        """Give the update of an adapter, (alpha / r) L M R, `(out_features, in_features)`.

        Args:
            adapter_name: Its name.

        Returns:
            The update in float32, or float64 for factors of that type; also for a `Conv1D`, whose
            own weight is the transpose.
        """
        left, right = self.get_delta_factors(adapter_name)
        return left @ right

    def get_delta_factors(self, adapter_name: str) -> tuple[Tensor, Tensor]:
        """Give the two factors whose product is the update of an adapter.

        Args:
            adapter_name: Its name.

        Returns:
            (alpha / r) L M of shape `(out_features, r)` and R of shape `(r, in_features)`.
        """
        left, core, right = self._tensor_train(adapter_name)
        wide = torch.promote_types(core.dtype, torch.float32)
        return left.to(wide) @ core.to(wide), right.to(wide)

    def _update(self, adapter_name: str, x: Tensor) -> Tensor:
        left, core, right = self._tensor_train(adapter_name)
        inputs = self.lotr_dropout[adapter_name](x).to(core.dtype)
        return F.linear(F.linear(F.linear(inputs, right), core), left)

    def _tensor_train(self, adapter_name: str) -> tuple[Tensor, Tensor, Tensor]:
        """The tensor train, left to right; the core carries the scaling."""
        shared, core = self.lotr_shared[adapter_name], self.lotr_core[adapter_name]
        assert isinstance(shared, SharedFactors)
        config = self.lotr_config[adapter_name]
        # A model may lie on several devices; a parameter, on one.
        left, right = shared.left.to(core.device), shared.right.to(core.device)
        return left, config.alpha / config.r * core, right
