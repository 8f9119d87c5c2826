"""Layers that add a LoTR weight update to a frozen linear layer."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tera_pl.adapters.factored_layer import FactoredLayer
from tera_pl.adapters.lotr.config import LotrConfig


class SharedFactors(nn.Module):
    """Trainable left and right factor of one adapter, one module in all layers that share them.

    Layers share the module, not its parameters: torch replaces parameters inside modules when it
    moves, casts or loads them.

    Args:
        out_features: Size of the outputs.
        in_features: Size of the inputs.
        rank: Size of the cores.
        group: Key that the sharing layers have in common.
    """

    def __init__(self, out_features: int, in_features: int, rank: int, group: object) -> None:
        super().__init__()
        self.left = nn.Parameter(torch.randn(out_features, rank))
        self.right = nn.Parameter(torch.randn(rank, in_features))
        self.group = group


class LotrLayer(FactoredLayer):
    """A frozen linear layer with LoTR weight updates, one per adapter.

    Args:
        base_layer: As in `AdapterLayer`.
        **kwargs: As in `AdapterLayer`.
    """

    adapter_layer_names = ("lotr_shared", "lotr_core")

    def __init__(self, base_layer: nn.Module, **kwargs: Any) -> None:
        super().__init__(base_layer, **kwargs)
        self.lotr_shared = nn.ModuleDict()
        self.lotr_core = nn.ParameterDict()

    def create_parameters(self, adapter_name: str, config: LotrConfig, **shared: Any) -> None:
        """Create the core, zero unless `init_weights` is false.

        Args:
            adapter_name: Its name.
            config: Its configuration.
            **shared: `factors`, its left and right factor, which other layers may use already.
        """
        core = torch.zeros(config.r, config.r)
        if not config.init_weights:
            nn.init.normal_(core, std=config.r**-0.5)
        self.lotr_shared[adapter_name] = shared["factors"]
        self.lotr_core[adapter_name] = nn.Parameter(core)

    def get_delta_factors(self, adapter_name: str) -> tuple[Tensor, Tensor]:
        """Return the two factors whose product is the weight update of an adapter.

        Args:
            adapter_name: Its name.

        Returns:
            (alpha / r) L M of shape `(out_features, r)` and R of shape `(r, in_features)`.
        """
        left, core, right = self._tensor_train(adapter_name)
        wide = torch.promote_types(core.dtype, torch.float32)
        return left.to(wide) @ core.to(wide), right.to(wide)

    def apply_delta_weight(self, adapter_name: str, x: Tensor) -> Tensor:
        """Multiply by the right factor, the core and the left factor.

        Args:
            adapter_name: Its name.
            x: The input after dropout, `(..., in_features)`.

        Returns:
            Tensor of shape `(..., out_features)`, in the dtype of the core.
        """
        left, core, right = self._tensor_train(adapter_name)
        return F.linear(F.linear(F.linear(x.to(core.dtype), right), core), left)

    def _tensor_train(self, adapter_name: str) -> tuple[Tensor, Tensor, Tensor]:
        """Left factor, scaled core and right factor."""
        shared, core = self.lotr_shared[adapter_name], self.lotr_core[adapter_name]
        assert isinstance(shared, SharedFactors)
        config: LotrConfig = self.configs[adapter_name]
        # A model may be spread over several devices, a shared parameter is on one.
        left, right = shared.left.to(core.device), shared.right.to(core.device)
        return left, config.alpha / config.r * core, right
