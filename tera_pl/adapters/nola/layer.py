"""Layers that add a NOLA weight update to a frozen linear layer."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tera_pl.adapters.factored_layer import FactoredLayer
from tera_pl.adapters.nola.config import NolaConfig
from tera_pl.tensor import FrozenTensor
from tera_pl.tensor.projection import without_autocast


class Basis(FrozenTensor):
    """The random matrices of one factor, which no cast makes narrower than float32.

    A narrower copy for each product would cost the memory that sharing saves.
    """

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        before = self.value
        super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        if self.value.element_size() < 4:
            self.value = before.to(self.value.device)
        return self


class NolaLayer(FactoredLayer):
    """A frozen linear layer with NOLA weight updates, one per adapter.

    Args:
        base_layer: As in `AdapterLayer`.
        **kwargs: As in `AdapterLayer`.
    """

    adapter_layer_names = ("nola_alpha", "nola_beta")
    other_param_names = (*FactoredLayer.other_param_names, "nola_bases")

    def __init__(self, base_layer: nn.Module, **kwargs: Any) -> None:
        super().__init__(base_layer, **kwargs)
        self.nola_alpha = nn.ParameterDict()
        self.nola_beta = nn.ParameterDict()
        self.nola_bases = nn.ModuleDict()
        self._cached_factors: dict[str, tuple[Tensor, Tensor]] = {}

    def create_parameters(self, adapter_name: str, config: NolaConfig, **shared: Any) -> None:
        """Create the coefficients.

        Args:
            adapter_name: Its name.
            config: Its configuration.
            **shared: `bases`, the B_j `(k, out_features, r)` and the A_i `(k, r, in_features)`.
        """
        # An entry of A then has the variance of LoRA's, 1 / (3 in_features).
        self.nola_alpha[adapter_name] = nn.Parameter(
            torch.full((config.k,), self.in_features**-0.5)
        )
        beta = torch.zeros(config.k) if config.init_weights else torch.randn(config.k)
        self.nola_beta[adapter_name] = nn.Parameter(beta)
        self.nola_bases[adapter_name] = nn.ModuleList(shared["bases"])

    def get_frozen_tensors(self, adapter_name: str) -> list[FrozenTensor]:
        """Return the random matrices of an adapter.

        Args:
            adapter_name: Its name.

        Returns:
            Those of B and those of A.
        """
        return list(self.nola_bases[adapter_name])  # type: ignore[call-overload]

    def get_delta_factors(self, adapter_name: str) -> tuple[Tensor, Tensor]:
        """Combine the random matrices.

        Args:
            adapter_name: Its name.

        Returns:
            B, `(out_features, r)`, times the scaling, and A, `(r, in_features)`.
        """
        if adapter_name in self._cached_factors:
            return self._cached_factors[adapter_name]
        left, right = self.get_frozen_tensors(adapter_name)
        scaling = self.configs[adapter_name].scaling
        return (
            scaling * _combine(self.nola_beta[adapter_name], left.value),
            _combine(self.nola_alpha[adapter_name], right.value),
        )

    def apply_delta_weight(self, adapter_name: str, x: Tensor) -> Tensor:
        """Multiply the input by the two factors, one after the other.

        Args:
            adapter_name: Its name.
            x: The input after dropout, `(..., in_features)`.

        Returns:
            Tensor of shape `(..., out_features)`, in float32 or wider without autocast.
        """
        left, right = self.get_delta_factors(adapter_name)
        return F.linear(F.linear(x.to(right.dtype), right), left)

    def cache_delta_weight(self) -> None:
        """Cache both factors of the active adapters, so that no call reads the random matrices."""
        self.clear_cached_delta_weight()
        with torch.no_grad():
            self._cached_factors = {
                name: self.get_delta_factors(name)
                for name in self.own_adapters(self.active_adapters)
            }

    def clear_cached_delta_weight(self) -> None:
        """Drop the factors that `cache_delta_weight` cached."""
        self._cached_factors = {}


def _combine(coefficients: Tensor, basis: Tensor) -> Tensor:
    """Sum the matrices of a basis, `(k, rows, columns)`, times their coefficients `(k,)`."""
    wide = torch.promote_types(coefficients.dtype, basis.dtype)
    with without_autocast(coefficients):
        combined = coefficients.to(wide) @ basis.to(wide).flatten(1)
    return combined.reshape(basis.shape[1:])
