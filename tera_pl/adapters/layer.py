"""The common part of all layers that add a weight update to a frozen linear layer."""

import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from peft.utils.quantization_utils import resolve_quantization_backend
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from tera_pl.adapters.peft_private import get_in_out_features
from tera_pl.errors import UserError
from tera_pl.private_api.torch import has_forward_hooks
from tera_pl.tensor import FrozenTensor, full_float32


@dataclass(frozen=True)
class CachedDeltaWeight:
    """A matrix that stays valid until a parameter changes.

    Args:
        adapter_name: The adapter it belongs to.
        matrix: The delta weight, `(out_features, in_features)`, or its sum with the base weight.
        includes_base: Whether it is that sum.
    """

    adapter_name: str
    matrix: Tensor
    includes_base: bool


class AdapterLayer(nn.Module, BaseTunerLayer):
    """A frozen linear layer with weight updates, one per adapter.

    A subclass names in `adapter_layer_names` the containers of its trainable parameters, with an
    entry for every adapter, and implements `create_parameters`, `get_delta_weight` and
    `apply_delta_weight`. All other methods are optional.

    Args:
        base_layer: A `Linear`, a quantized linear layer that PEFT supports, or a `Conv1D` of
            transformers, whose weight is transposed.
        **kwargs: Arguments of PEFT for quantized layers.
    """

    other_param_names: tuple[str, ...] = ("configs", "dropouts")

    if TYPE_CHECKING:  # attributes come from PEFT's mixin, whose types are not checked

        def __getattr__(self, name: str) -> Any: ...

    def __init__(self, base_layer: nn.Module, **kwargs: Any) -> None:
        super().__init__()
        self.base_layer: Any = base_layer
        self.quantization_backend = resolve_quantization_backend(
            self.get_base_layer(),
            get_apply_tensor_subclass=kwargs.get("get_apply_tensor_subclass"),
        )
        self.in_features, self.out_features = get_in_out_features(self.get_base_layer())
        self.configs: dict[str, Any] = {}
        self.dropouts = nn.ModuleDict()
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self._weight_before_merge: Tensor | None = None
        self._cached: CachedDeltaWeight | None = None

    def update_layer(
        self, adapter_name: str, config: Any, *, inference_mode: bool = False, **shared: Any
    ) -> None:
        """Add an adapter.

        Args:
            adapter_name: Its name.
            config: Its configuration.
            inference_mode: Whether it stays frozen.
            **shared: What the layer shares with others, for `create_parameters`.
        """
        self.create_parameters(adapter_name, config, **shared)
        self.configs[adapter_name] = config
        dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        self.dropouts[adapter_name] = dropout
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def create_parameters(self, adapter_name: str, config: Any, **shared: Any) -> None:
        """Create the parameters of an adapter, in any dtype on any device.

        Args:
            adapter_name: Its name.
            config: Its configuration.
            **shared: What the layer shares with others.

        Raises:
            ValueError: If the configuration does not fit the layer.
        """
        raise NotImplementedError

    def get_delta_weight(self, adapter_name: str) -> Tensor:
        """Compute the weight update of an adapter.

        Args:
            adapter_name: Its name.

        Returns:
            `DeltaW` of shape `(out_features, in_features)`, also for a `Conv1D`, whose own weight
            is the transpose; in float32, or float64 for parameters of that dtype.
        """
        raise NotImplementedError

    def get_frozen_tensors(self, adapter_name: str) -> Sequence[FrozenTensor]:
        """Return the frozen tensors of an adapter, which other layers may have too.

        Args:
            adapter_name: Its name.

        Returns:
            The modules; by default none.
        """
        return ()

    def delta_weight_as_stored(self, adapter_name: str) -> Tensor:
        """Compute the weight update of an adapter in the layout of the base weight.

        Args:
            adapter_name: Its name.

        Returns:
            `get_delta_weight`, transposed for a `Conv1D`.
        """
        delta = self.get_delta_weight(adapter_name)
        return delta.T if isinstance(self.get_base_layer(), Conv1D) else delta

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """Every method here is a weight update: see `lora_conversion`."""
        return True

    def apply_delta_weight(self, adapter_name: str, x: Tensor) -> Tensor:
        """Multiply an input by the weight update of an adapter.

        Args:
            adapter_name: Its name.
            x: The input after dropout, `(..., in_features)`, in any floating dtype.

        Returns:
            `x DeltaW^T` of shape `(..., out_features)`, in any floating dtype.
        """
        raise NotImplementedError

    def apply_fused(self, adapter_name: str, x: Tensor) -> Tensor | None:
        """Apply the base layer and a weight update together, where that is cheaper.

        Args:
            adapter_name: Name of the only active adapter.
            x: The input, `(..., in_features)`.

        Returns:
            The output of the layer, `(..., out_features)`, or null to apply both separately.
        """
        return None

    def apply_to_examples(self, adapter_names: Sequence[str], x: Tensor) -> Tensor:
        """Multiply every example by the weight update of its adapter, all of one mixing group.

        Args:
            adapter_names: One name per example.
            x: The input, `(B, ..., in_features)`.

        Returns:
            Tensor of shape `(B, ..., out_features)`.
        """
        name = adapter_names[0]
        return self.apply_delta_weight(name, self.dropouts[name](x))

    def mixing_group(self, adapter_name: str) -> Hashable:
        """Return what adapters have in common that `apply_to_examples` can apply together.

        Args:
            adapter_name: Name of an adapter.

        Returns:
            A key; by default every adapter is a group of its own.
        """
        return adapter_name

    def cache_delta_weight(self) -> None:
        """Cache the active delta weight for many calls without training; by default do nothing."""

    def clear_cached_delta_weight(self) -> None:
        """Drop what `cache_delta_weight` cached."""
        self._cached = None

    @full_float32()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Merge adapters into the base weight, in float32 with one rounding each.

        The weight before merging is kept until `unmerge`, which restores it to the bit, at the cost
        of a second copy of the weight. Of a quantized weight the dequantized one is kept, and
        quantized again.

        Args:
            safe_merge: Whether to refuse a result that is not finite.
            adapter_names: Which adapters; the active ones if not given.

        Raises:
            UserError: If `safe_merge` finds NaN or infinite values.
        """
        for name in self.own_adapters(check_adapters_to_merge(self, adapter_names)):
            weight = self.get_base_weight()
            merged = self._merged_weight(name, weight)
            if safe_merge and not torch.isfinite(merged).all():
                raise UserError(
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

    def _merged_weight(self, adapter_name: str, weight: Tensor) -> Tensor:
        """Add a weight update to a weight of the base layer, with one rounding."""
        delta = self.delta_weight_as_stored(adapter_name).detach()
        wide = torch.promote_types(weight.dtype, delta.dtype)
        return (weight.to(wide) + delta.to(wide)).to(weight.dtype)

    def forward(
        self, x: Tensor, *args: Any, adapter_names: Sequence[str] | None = None, **kwargs: Any
    ) -> Tensor:
        """Apply the layer with its active weight updates.

        Args:
            x: The input, `(..., in_features)`.
            *args: For the base layer.
            adapter_names: Instead of the active adapters one per example; `__base__`, or an adapter
                that this layer does not have, adds nothing.
            **kwargs: For the base layer.

        Returns:
            The output, `(..., out_features)`.

        Raises:
            ValueError: If there is not one name for every example, or adapters are merged.
        """
        if adapter_names is not None:
            self._check_names(x, adapter_names)
        if self.disable_adapters or self.merged:
            if self.disable_adapters and self.merged:
                self.unmerge()
            return self.base_layer(x, *args, **kwargs)
        if adapter_names is not None:
            return self._forward_mixed(x, adapter_names, *args, **kwargs)
        names = self.own_adapters(self.active_adapters)
        cached = self._cached
        if cached is not None and names == [cached.adapter_name]:
            if cached.includes_base:
                return F.linear(x, cached.matrix, self.base_layer.bias)
            inputs = self.dropouts[cached.adapter_name](x).to(cached.matrix.dtype)
            outputs = self._apply_base(x, *args, **kwargs)
            return outputs + F.linear(inputs, cached.matrix).to(outputs.dtype)
        if len(names) == 1 and (fused := self.apply_fused(names[0], x)) is not None:
            return fused
        outputs = self._apply_base(x, *args, **kwargs)
        for name in names:
            delta = self.apply_delta_weight(name, self.dropouts[name](x))
            outputs = outputs + delta.to(outputs.dtype)
        return outputs

    def _forward_mixed(self, x: Tensor, names: Sequence[str], *args: Any, **kwargs: Any) -> Tensor:
        """Apply the layer and to every example its adapter, one mixing group after the other."""
        outputs = self._apply_base(x, *args, **kwargs)
        groups: dict[Hashable, list[int]] = {}
        own = set(self.own_adapters(names))
        for example, name in enumerate(names):
            if name in own:
                groups.setdefault(self.mixing_group(name), []).append(example)
        for examples in groups.values():
            members = [names[example] for example in examples]
            if len(members) == len(names):
                return outputs + self.apply_to_examples(members, x).to(outputs.dtype)
            index = torch.tensor(examples, device=x.device)
            delta = self.apply_to_examples(members, x[index]).to(outputs.dtype)
            outputs = outputs.index_add(0, index, delta)
        return outputs

    def _apply_base(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Apply the base layer alone; the result may be changed in place."""
        outputs = self.base_layer(x, *args, **kwargs)
        if self.quantization_backend is not None:
            outputs = self.quantization_backend.maybe_clone_base_result(outputs)
        return outputs

    def _is_plain(self, adapter_name: str) -> bool:
        """Whether weight and weight update can be one matrix: a frozen `Linear`, no dropout.

        The base layer is then not called, so nothing must depend on its call, as hooks do.
        """
        base = self.base_layer
        return (
            type(base) is nn.Linear
            and self.quantization_backend is None
            and not (base.weight.requires_grad and torch.is_grad_enabled())
            and not (has_forward_hooks(base) or "forward" in vars(base))
            and isinstance(self.dropouts[adapter_name], nn.Identity)
        )

    def own_adapters(self, names: Sequence[str]) -> list[str]:
        """Return those of some adapters that this layer has."""
        parameters = getattr(self, self.adapter_layer_names[0])
        return [name for name in names if name in parameters]

    def _check_names(self, x: Tensor, names: Sequence[str]) -> None:
        # The messages are PEFT's.
        if len(names) != len(x):
            raise ValueError(
                "Length of `adapter_names` should be the same as the number of inputs, but got "
                f"{len(names)} and {len(x)} respectively."
            )
        if self.merged:
            raise ValueError(
                "Cannot pass `adapter_names` when there are merged adapters, please call "
                "`unmerge_adapter` first."
            )

    def __repr__(self) -> str:
        method = type(self).__name__.removesuffix("Layer").lower()
        return f"{method}.{super().__repr__()}"
