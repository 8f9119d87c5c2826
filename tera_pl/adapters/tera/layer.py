"""Layers that add a TeRA update to a frozen linear layer."""

from collections.abc import Hashable, Sequence
from dataclasses import replace
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from tera_pl.adapters.layer import AdapterLayer
from tera_pl.adapters.tera.config import TeraConfig
from tera_pl.errors import UserError
from tera_pl.tensor import FrozenTensor, TensorNetwork, apply, apply_linear, apply_mixed, contract


class FrozenNetwork(nn.Module):
    """Core and factors of one adapter on one layer; shared with other layers.

    Args:
        core: The core.
        factors: One factor per mode.
        out_order: Number of out modes.
    """

    def __init__(self, core: FrozenTensor, factors: list[FrozenTensor], out_order: int) -> None:
        super().__init__()
        self.core = core
        self.factors = nn.ModuleList(factors)
        self.out_order = out_order

    def tensors(self) -> list[FrozenTensor]:
        """List the core and the factors."""
        # Not `self.modules()`: this is asked in every forward pass.
        return [self.core, *self.factors]


class TeraLayer(AdapterLayer):
    """A frozen linear layer with TeRA updates, one per adapter.

    Args:
        base_layer: A `Linear`, a quantized linear layer that PEFT knows, or a `Conv1D` of
            transformers, whose weight is transposed.
        **kwargs: What PEFT hands over for quantized layers.
    """

    adapter_layer_names = ("tera_vectors",)
    other_param_names = ("tera_frozen", "tera_dropout", "tera_config", "tera_networks")

    def __init__(self, base_layer: nn.Module, **kwargs: Any) -> None:
        super().__init__(base_layer, **kwargs)
        self.tera_vectors = nn.ModuleDict()
        self.tera_frozen = nn.ModuleDict()
        self.tera_dropout = nn.ModuleDict()
        self.tera_config: dict[str, TeraConfig] = {}
        self.tera_networks: dict[str, tuple[TensorNetwork, list[Tensor], tuple[float, bool]]] = {}
        # Name and matrix of what `cache_delta_weight` built.
        self._held_weight: tuple[str, Tensor] | None = None
        self._held_update: tuple[str, Tensor] | None = None

    def update_layer(
        self, adapter_name: str, frozen: FrozenNetwork, config: TeraConfig, inference_mode: bool
    ) -> None:
        """Add an adapter.

        Args:
            adapter_name: Its name.
            frozen: Its core and factors, on the device and in the type of the base layer.
            config: Its settings.
            inference_mode: Whether it stays frozen.

        Raises:
            UserError: If there is no mode with the index `zero_vector`.
        """
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
        dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        self.tera_dropout[adapter_name] = dropout
        self.tera_config[adapter_name] = config
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def get_tensor_network(self, adapter_name: str) -> TensorNetwork:
        """Give the tensor network of an adapter.

        Args:
            adapter_name: Its name.

        Returns:
            `core` `(R_1, ..., R_N)`, `factors` `(R_i, I_i)`, `vectors` `(R_i,)`, `out_order` and
            `scaling`: the adapter's own tensors, not copies.
        """
        frozen = self.tera_frozen[adapter_name]
        vectors = self.tera_vectors[adapter_name]
        assert isinstance(frozen, FrozenNetwork)
        assert isinstance(vectors, nn.ParameterList)
        config = self.tera_config[adapter_name]
        tensors = frozen.tensors()
        # To build and check it takes longer than its small products: kept while its tensors are
        # the same objects.
        made_of = [*(tensor.value for tensor in tensors), *vectors]
        settings = (config.scaling, config.recompute)
        if adapter_name in self.tera_networks:
            network, before, settings_before = self.tera_networks[adapter_name]
            if settings == settings_before and all(map(is_, made_of, before)):
                return network
        core, *factors = tensors
        found = {mode: factor.parts() for mode, factor in enumerate(factors)}
        network = TensorNetwork(
            core.value,
            [factor.value for factor in factors],
            list(vectors),
            frozen.out_order,
            config.scaling,
            {mode: parts for mode, parts in found.items() if parts is not None},
            core.parts() or (),
            config.recompute,
        )
        self.tera_networks[adapter_name] = (network, made_of, settings)
        return network

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        self.tera_networks.clear()  # it must not keep what is moved
        return super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]

    def get_delta_weight(self, adapter_name: str) -> Tensor:
        """Give the update of an adapter (Eq. 6), of shape `(out_features, in_features)`.

        Args:
            adapter_name: Its name.

        Returns:
            The update in float32, or float64 for vectors of that type; also for a `Conv1D`, whose
            own weight is the transpose.
        """
        network = self.get_tensor_network(adapter_name)
        wide = torch.promote_types(network.vectors[0].dtype, torch.float32)
        vectors = [vector.to(wide) for vector in network.vectors]
        return contract(replace(network, vectors=vectors))

    def cache_delta_weight(self) -> None:
        """Build the active update once, for many calls: generation then costs what the base costs.

        Weight and update become one matrix, as when they are merged, but the base weight stays as
        it is. A weight in 16 bits would lose what is smaller than half its last bit, so there the
        update is kept apart. The memory is that of the weight. Parameters must not change until
        `clear_cached_delta_weight`.
        """
        self.clear_cached_delta_weight()
        names = self._known(self.active_adapters)
        if len(names) != 1 or self.merged or isinstance(self.get_base_layer(), Conv1D):
            return
        with torch.no_grad():
            delta = self.get_delta_weight(names[0])
            weight = self.base_layer.weight
            # A weight that several processes share is whole only while the layer computes.
            shared = isinstance(weight, DTensor)
            if self._is_plain(names[0]) and not shared and weight.element_size() >= 4:
                self._held_weight = (names[0], weight + delta.to(weight.dtype))
            else:
                core = self.get_tensor_network(names[0]).core
                self._held_update = (names[0], delta.to(core.dtype))

    def clear_cached_delta_weight(self) -> None:
        """Forget what `cache_delta_weight` built."""
        self._held_weight = self._held_update = None

    def _adapted(self, x: Tensor, names: Sequence[str], *args: Any, **kwargs: Any) -> Tensor:
        if len(names) != 1:
            return super()._adapted(x, names, *args, **kwargs)
        (name,) = names
        base = self.base_layer
        if self._held_weight is not None and self._held_weight[0] == name:
            return F.linear(x, self._held_weight[1], base.bias)
        held = self._held_update is not None and self._held_update[0] == name
        if not held and self._is_plain(name) and base.weight.dtype == x.dtype:
            compute = self.tera_config[name].compute
            return apply_linear(self.get_tensor_network(name), x, base.weight, base.bias, compute)
        return super()._adapted(x, names, *args, **kwargs)

    def _update(self, adapter_name: str, x: Tensor) -> Tensor:
        network = self.get_tensor_network(adapter_name)
        inputs = self.tera_dropout[adapter_name](x).to(network.core.dtype)
        if self._held_update is not None and self._held_update[0] == adapter_name:
            return F.linear(inputs, self._held_update[1])
        return apply(network, inputs, self.tera_config[adapter_name].compute)

    def _mixing_group(self, adapter_name: str) -> Hashable:
        frozen = self.tera_frozen[adapter_name]
        assert isinstance(frozen, FrozenNetwork)
        return frozen.out_order, *frozen.tensors()

    def _update_examples(self, adapter_names: Sequence[str], x: Tensor) -> Tensor:
        network = self.get_tensor_network(adapter_names[0])
        # Of every mode the vectors of all examples.
        modes = zip(*(self.tera_vectors[name] for name in adapter_names), strict=True)
        vectors = [torch.stack(mode) for mode in modes]
        scalings = torch.tensor(
            [self.tera_config[name].scaling for name in adapter_names],
            dtype=vectors[0].dtype,
            device=x.device,
        )
        return apply_mixed(network, vectors, scalings, x.to(network.core.dtype))

    def _is_plain(self, name: str) -> bool:
        """Whether weight and update can be used in one go: a frozen `Linear` and no dropout.

        The base layer is then not called, so nothing must hang on its call, as hooks do.
        """
        base = self.base_layer
        return (
            type(base) is nn.Linear
            and self.quantization_backend is None
            and not (base.weight.requires_grad and torch.is_grad_enabled())
            and not (base._forward_pre_hooks or base._forward_hooks or "forward" in vars(base))
            and isinstance(self.tera_dropout[name], nn.Identity)
        )
