"""Layers that add a TeRA weight update to a frozen linear layer."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers.pytorch_utils import Conv1D

from tera_pl.adapters.layer import AdapterLayer, CachedDeltaWeight
from tera_pl.adapters.tera.config import TeraConfig
from tera_pl.errors import UserError
from tera_pl.tensor import (
    FrozenTensor,
    SharedProjections,
    TensorNetwork,
    apply,
    apply_linear,
    apply_mixed,
    contract,
)


class FrozenNetwork(nn.Module):
    """What a layer shares with other layers for one adapter: frozen core, factors, projections.

    Args:
        core: The core.
        factors: One factor per mode.
        out_order: Number of out modes.
        projections: Projections of the layers of one model.
    """

    def __init__(
        self,
        core: FrozenTensor,
        factors: list[FrozenTensor],
        out_order: int,
        projections: SharedProjections,
    ) -> None:
        super().__init__()
        self.core = core
        self.factors = nn.ModuleList(factors)
        self.out_order = out_order
        self.projections = projections
        self._built: tuple[list[Any], TensorNetwork] | None = None

    def tensors(self) -> list[FrozenTensor]:
        """List the core and the factors."""
        # Not `self.modules()`: every forward pass asks for them.
        return [self.core, *self.factors]

    def build(self, vectors: Iterable[Tensor], config: TeraConfig) -> TensorNetwork:
        """Build the tensor network with some scaling vectors.

        Building and checking take longer than small products, so the same network is returned as
        long as all tensors are the same objects and the settings are the same.

        Args:
            vectors: One per mode, of shape `(R_i,)`.
            config: Its `scaling` and `recompute`.

        Returns:
            The network; it refers to the tensors and does not copy them.
        """
        tensors, vectors = self.tensors(), list(vectors)
        made_of = [*(t.value for t in tensors), *vectors, config.scaling, config.recompute]
        compiling = torch.compiler.is_compiling()
        if not compiling and self._built is not None and all(map(is_, made_of, self._built[0])):
            return self._built[1]
        core, *factors = tensors
        parts = {mode: factor.parts() for mode, factor in enumerate(factors)}
        network = TensorNetwork(
            core.value,
            [factor.value for factor in factors],
            vectors,
            self.out_order,
            config.scaling,
            {mode: found for mode, found in parts.items() if found is not None},
            core.parts() or (),
            config.recompute,
        )
        if not compiling:
            self._built = (made_of, network)
        return network

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        self._built = None  # it would keep the tensors that are replaced
        return super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]


class TeraLayer(AdapterLayer):
    """A frozen linear layer with TeRA weight updates, one per adapter.

    Args:
        base_layer: As in `AdapterLayer`.
        **kwargs: As in `AdapterLayer`.
    """

    adapter_layer_names = ("tera_vectors",)
    other_param_names = (*AdapterLayer.other_param_names, "tera_frozen")

    def __init__(self, base_layer: nn.Module, **kwargs: Any) -> None:
        super().__init__(base_layer, **kwargs)
        self.tera_vectors = nn.ModuleDict()
        self.tera_frozen = nn.ModuleDict()

    def create_parameters(self, adapter_name: str, config: TeraConfig, **shared: Any) -> None:
        """Create the scaling vectors of an adapter: ones, but for the vector that starts at zero.

        Args:
            adapter_name: Its name.
            config: Its configuration.
            **shared: `frozen`, its `FrozenNetwork`.

        Raises:
            UserError: If there is no mode with the index `zero_vector`.
        """
        frozen: FrozenNetwork = shared["frozen"]
        ranks = frozen.core.key.shape
        zero = config.zero_vector
        if zero == "longest":
            zero = ranks.index(max(ranks))
        if not 0 <= int(zero) < len(ranks):
            raise UserError(
                f"zero_vector is {zero}: expected 0 to {len(ranks) - 1} for {len(ranks)} modes"
            )
        vectors = [torch.ones(rank) for rank in ranks]
        vectors[int(zero)].zero_()
        if not config.init_weights:
            vectors = [0.5 + torch.rand(rank) for rank in ranks]
        self.tera_vectors[adapter_name] = nn.ParameterList(vectors)
        self.tera_frozen[adapter_name] = frozen

    def get_tensor_network(self, adapter_name: str) -> TensorNetwork:
        """Return the tensor network of an adapter.

        Args:
            adapter_name: Its name.

        Returns:
            `core` `(R_0, ..., R_{N-1})`, `factors` `(R_i, I_i)`, `vectors` `(R_i,)`, `out_order`
            and `scaling`: the adapter's own tensors, not copies.
        """
        vectors = self.tera_vectors[adapter_name]
        assert isinstance(vectors, nn.ParameterList)
        return self._frozen(adapter_name).build(vectors, self.configs[adapter_name])

    def get_frozen_tensors(self, adapter_name: str) -> list[FrozenTensor]:
        """Return the frozen core and factors of an adapter.

        Args:
            adapter_name: Its name.

        Returns:
            The core and one factor per mode.
        """
        return self._frozen(adapter_name).tensors()

    def get_delta_weight(self, adapter_name: str) -> Tensor:
        """Contract the tensor network of an adapter (Eq. 6).

        Args:
            adapter_name: Its name.

        Returns:
            As in `AdapterLayer`.
        """
        network = self.get_tensor_network(adapter_name)
        wide = torch.promote_types(network.vectors[0].dtype, torch.float32)
        vectors = [vector.to(wide) for vector in network.vectors]
        return contract(replace(network, vectors=vectors))

    def apply_delta_weight(self, adapter_name: str, x: Tensor) -> Tensor:
        """Apply the tensor network of an adapter, by the path that its configuration chooses.

        Args:
            adapter_name: Its name.
            x: The input after dropout, `(..., in_features)`.

        Returns:
            `x DeltaW^T` of shape `(..., out_features)`, in the dtype of the frozen core.
        """
        network = self.get_tensor_network(adapter_name)
        compute, projections = self.configs[adapter_name].compute, self._projections(adapter_name)
        return apply(network, x.to(network.core.dtype), compute, projections)

    def apply_fused(self, adapter_name: str, x: Tensor) -> Tensor | None:
        """Apply a plain base layer and the tensor network together.

        Args:
            adapter_name: Name of the only active adapter.
            x: The input, `(..., in_features)`.

        Returns:
            The output, or null if the base layer must be called.
        """
        base = self.base_layer
        if not self._is_plain(adapter_name) or base.weight.dtype != x.dtype:
            return None
        network = self.get_tensor_network(adapter_name)
        compute, projections = self.configs[adapter_name].compute, self._projections(adapter_name)
        return apply_linear(network, x, base.weight, base.bias, compute, projections)

    def apply_to_examples(self, adapter_names: Sequence[str], x: Tensor) -> Tensor:
        """Apply adapters with the same frozen tensors with the products of one.

        Args:
            adapter_names: One name per example.
            x: The input, `(B, ..., in_features)`.

        Returns:
            Tensor of shape `(B, ..., out_features)`.
        """
        network = self.get_tensor_network(adapter_names[0])
        # For every mode the vectors of all examples.
        modes = zip(*(self.tera_vectors[name] for name in adapter_names), strict=True)
        vectors = [torch.stack(mode) for mode in modes]
        scalings = torch.tensor(
            [self.configs[name].scaling for name in adapter_names],
            dtype=vectors[0].dtype,
            device=x.device,
        )
        projections = self._projections(adapter_names[0])
        return apply_mixed(network, vectors, scalings, x.to(network.core.dtype), projections)

    def mixing_group(self, adapter_name: str) -> Hashable:
        """Group adapters that share their frozen core and factors.

        Args:
            adapter_name: Name of an adapter.

        Returns:
            The shared modules and the number of out modes.
        """
        frozen = self._frozen(adapter_name)
        return frozen.out_order, *frozen.tensors()

    def cache_delta_weight(self) -> None:
        """Cache the delta weight of the active adapter: a call then costs what the base costs.

        Weight and delta weight become one matrix, as when they are merged, but the base weight
        stays as it is. A 16-bit weight would lose what is smaller than half its last bit, so there
        the delta weight is cached separately. The memory is that of the weight. Parameters must not
        change until `clear_cached_delta_weight`.
        """
        self.clear_cached_delta_weight()
        names = self.own_adapters(self.active_adapters)
        if len(names) != 1 or self.merged or isinstance(self.get_base_layer(), Conv1D):
            return
        (name,) = names
        with torch.no_grad():
            weight = self.base_layer.weight
            # A sharded weight is a full tensor only while the layer computes.
            sharded = isinstance(weight, DTensor)
            if self._is_plain(name) and not sharded and weight.element_size() >= 4:
                merged = self._merged_weight(name, weight)
                self._cached = CachedDeltaWeight(name, merged, includes_base=True)
            else:
                delta = self.get_delta_weight(name).to(self.get_tensor_network(name).core.dtype)
                self._cached = CachedDeltaWeight(name, delta, includes_base=False)

    def _frozen(self, adapter_name: str) -> FrozenNetwork:
        frozen = self.tera_frozen[adapter_name]
        assert isinstance(frozen, FrozenNetwork)
        return frozen

    def _projections(self, adapter_name: str) -> SharedProjections:
        return self._frozen(adapter_name).projections
