"""Layers that add a TeRA update to a frozen linear layer."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, _get_in_out_features, check_adapters_to_merge
from peft.utils.quantization_utils import resolve_quantization_backend
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tera_pl.adapters.tera.config import TeraConfig
from tera_pl.tensor import FrozenTensor, TensorNetwork, apply, apply_linear, contract


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
        return [tensor for tensor in self.modules() if isinstance(tensor, FrozenTensor)]


class TeraLayer(nn.Module, BaseTunerLayer):
    """A frozen linear layer with TeRA updates, one per adapter.

    Args:
        base_layer: A `Linear`, a quantised linear layer that PEFT knows, or a `Conv1D` of
            transformers, whose weight is transposed.
        **kwargs: What PEFT hands over for quantised layers.
    """

    adapter_layer_names = ("tera_vectors",)
    other_param_names = ("tera_frozen", "tera_dropout", "tera_config")

    if TYPE_CHECKING:  # attributes come from PEFT's mixin, whose types are not checked

        def __getattr__(self, name: str) -> Any: ...

    def __init__(self, base_layer: nn.Module, **kwargs: Any) -> None:
        super().__init__()
        self.base_layer: Any = base_layer
        self.quantization_backend = resolve_quantization_backend(
            self.get_base_layer(),
            get_apply_tensor_subclass=kwargs.get("get_apply_tensor_subclass"),
        )
        self.in_features, self.out_features = _get_in_out_features(self.get_base_layer())
        self.tera_vectors = nn.ModuleDict()
        self.tera_frozen = nn.ModuleDict()
        self.tera_dropout = nn.ModuleDict()
        self.tera_config: dict[str, TeraConfig] = {}
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self._weight_before_merge: Tensor | None = None

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
            ValueError: If there is no mode with the index `zero_vector`.
        """
        ranks = frozen.core.key.shape
        zero = config.zero_vector
        if zero == "longest":
            zero = ranks.index(max(ranks))
        if not 0 <= int(zero) < len(ranks):
            raise ValueError(
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
        core, *factors = (tensor.value for tensor in frozen.tensors())
        return TensorNetwork(
            core,
            factors,
            list(vectors),
            frozen.out_order,
            self.tera_config[adapter_name].scaling,
        )

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
        return contract(
            TensorNetwork(
                network.core, network.factors, vectors, network.out_order, network.scaling
            )
        )

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add updates to the base weight, in float32 with one rounding each.

        The weight as it was is kept until `unmerge`, which restores it to the bit, at the cost of
        a second copy of the weight. Of a quantised weight the dequantised one is kept, and
        quantised again.

        Args:
            safe_merge: Whether to refuse a result that is not finite.
            adapter_names: Which adapters; the active ones if not given.

        Raises:
            ValueError: If `safe_merge` finds NaN or infinite values.
        """
        for name in check_adapters_to_merge(self, adapter_names):
            if name not in self.tera_vectors:
                continue
            weight = self.get_base_weight()
            delta = self._oriented(self.get_delta_weight(name).detach())
            merged = (weight.to(delta.dtype) + delta).to(weight.dtype)
            if safe_merge and not torch.isfinite(merged).all():
                raise ValueError(
                    f"NaNs detected in the merged weights. The adapter {name} seems to be broken"
                )
            if not self.merged_adapters:
                self._weight_before_merge = weight
            self.set_base_weight(merged)
            self.merged_adapters.append(name)

    def unmerge(self) -> None:
        """Restore the base weight as it was before `merge`."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        assert self._weight_before_merge is not None
        # The layer may have moved while it was merged.
        self.set_base_weight(self._weight_before_merge.to(self.get_base_weight()))
        self._weight_before_merge = None
        self.merged_adapters.clear()

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Apply the layer and its active updates, `(..., in_features) -> (..., out_features)`."""
        if self.disable_adapters or self.merged:
            if self.disable_adapters and self.merged:
                self.unmerge()
            return self.base_layer(x, *args, **kwargs)
        names = [name for name in self.active_adapters if name in self.tera_vectors]
        if len(names) == 1 and self._is_plain(x, names[0]):
            network, base = self.get_tensor_network(names[0]), self.base_layer
            compute = self.tera_config[names[0]].compute
            return apply_linear(network, x, base.weight, base.bias, compute)
        return self._add_updates(x, self.base_layer(x, *args, **kwargs), names)

    def _add_updates(self, x: Tensor, outputs: Tensor, names: Sequence[str]) -> Tensor:
        if self.quantization_backend is not None:
            outputs = self.quantization_backend.maybe_clone_base_result(outputs)
        for name in names:
            inputs = self.tera_dropout[name](x).to(outputs.dtype)
            compute = self.tera_config[name].compute
            outputs = outputs + apply(self.get_tensor_network(name), inputs, compute)
        return outputs

    def _is_plain(self, x: Tensor, name: str) -> bool:
        """Whether weight and update can be used in one go: a frozen `Linear` and no dropout.

        The base layer is then not called, so nothing must hang on its call, as hooks do.
        """
        base = self.base_layer
        return (
            type(base) is nn.Linear
            and self.quantization_backend is None
            and base.weight.dtype == x.dtype
            and not (base.weight.requires_grad and torch.is_grad_enabled())
            and not (base._forward_pre_hooks or base._forward_hooks or "forward" in vars(base))
            and isinstance(self.tera_dropout[name], nn.Identity)
        )

    def _oriented(self, delta: Tensor) -> Tensor:
        return delta.T if isinstance(self.get_base_layer(), Conv1D) else delta

    def __repr__(self) -> str:
        return f"tera.{super().__repr__()}"
