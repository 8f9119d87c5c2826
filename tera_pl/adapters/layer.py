"""The common part of all layers that add an update to a frozen linear layer."""

import warnings
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, _get_in_out_features, check_adapters_to_merge
from peft.utils.quantization_utils import resolve_quantization_backend
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tera_pl.errors import UserError
from tera_pl.tensor import full_float32


class AdapterLayer(nn.Module, BaseTunerLayer):
    """A frozen linear layer with updates, one per adapter.

    A subclass has `adapter_layer_names`, the first of which names a container with an entry for
    every adapter, a method that adds an adapter, `get_delta_weight` and `_update`.

    Args:
        base_layer: A `Linear`, a quantized linear layer that PEFT knows, or a `Conv1D` of
            transformers, whose weight is transposed.
        **kwargs: What PEFT hands over for quantized layers.
    """

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
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self._weight_before_merge: Tensor | None = None

    def get_delta_weight(self, adapter_name: str) -> Tensor:
        """Give the update of an adapter, of shape `(out_features, in_features)`.

        Args:
            adapter_name: Its name.

        Returns:
            The update in float32, or float64 for parameters of that type; also for a `Conv1D`,
            whose own weight is the transpose.
        """
        raise NotImplementedError

    def _update(self, adapter_name: str, x: Tensor) -> Tensor:
        """Apply the update of an adapter, `(..., in_features) -> (..., out_features)`."""
        raise NotImplementedError

    def _mixing_group(self, adapter_name: str) -> Hashable:
        """What adapters have in common whose updates `_update_examples` can apply together."""
        return adapter_name

    def _update_examples(self, adapter_names: Sequence[str], x: Tensor) -> Tensor:
        """Apply to every example, `(B, ..., in_features)`, an adapter of one and the same group."""
        return self._update(adapter_names[0], x)

    def cache_delta_weight(self) -> None:
        """Prepare for many calls in which no parameter changes; by default there is nothing to."""

    def clear_cached_delta_weight(self) -> None:
        """Forget what `cache_delta_weight` built."""

    @full_float32()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add updates to the base weight, in float32 with one rounding each.

        The weight as it was is kept until `unmerge`, which restores it to the bit, at the cost of
        a second copy of the weight. Of a quantized weight the dequantized one is kept, and
        quantized again.

        Args:
            safe_merge: Whether to refuse a result that is not finite.
            adapter_names: Which adapters; the active ones if not given.

        Raises:
            UserError: If `safe_merge` finds NaN or infinite values.
        """
        for name in self._known(check_adapters_to_merge(self, adapter_names)):
            weight = self.get_base_weight()
            delta = self._oriented(self.get_delta_weight(name).detach())
            merged = (weight.to(delta.dtype) + delta).to(weight.dtype)
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

    def forward(
        self, x: Tensor, *args: Any, adapter_names: Sequence[str] | None = None, **kwargs: Any
    ) -> Tensor:
        """Apply the layer and its active updates, `(..., in_features) -> (..., out_features)`.

        Args:
            x: The input.
            *args: For the layer.
            adapter_names: Instead of the active adapters one for every example, `__base__` for
                none; an adapter that this layer does not have is none.
            **kwargs: For the layer.

        Returns:
            The output.

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
            return self._mixed(x, adapter_names, *args, **kwargs)
        return self._adapted(x, self._known(self.active_adapters), *args, **kwargs)

    def _check_names(self, x: Tensor, names: Sequence[str]) -> None:
        # The words are PEFT's.
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

    def _base(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Apply the layer alone; the result may be changed in place."""
        outputs = self.base_layer(x, *args, **kwargs)
        if self.quantization_backend is not None:
            outputs = self.quantization_backend.maybe_clone_base_result(outputs)
        return outputs

    def _mixed(self, x: Tensor, names: Sequence[str], *args: Any, **kwargs: Any) -> Tensor:
        """Apply the layer and to every example the update of its adapter, group by group."""
        outputs = self._base(x, *args, **kwargs)
        groups: dict[Hashable, list[int]] = {}
        known = set(self._known(names))
        for example, name in enumerate(names):
            if name in known:
                groups.setdefault(self._mixing_group(name), []).append(example)
        for examples in groups.values():
            mine = [names[example] for example in examples]
            if len(mine) == len(names):
                return outputs + self._update_examples(mine, x).to(outputs.dtype)
            index = torch.tensor(examples, device=x.device)
            update = self._update_examples(mine, x[index]).to(outputs.dtype)
            outputs = outputs.index_add(0, index, update)
        return outputs

    def _adapted(self, x: Tensor, names: Sequence[str], *args: Any, **kwargs: Any) -> Tensor:
        """Apply the layer and the updates of some adapters."""
        outputs = self._base(x, *args, **kwargs)
        for name in names:
            outputs = outputs + self._update(name, x).to(outputs.dtype)
        return outputs

    def _known(self, names: Sequence[str]) -> list[str]:
        """Those of some adapters that this layer has."""
        return [name for name in names if name in getattr(self, self.adapter_layer_names[0])]

    def _oriented(self, delta: Tensor) -> Tensor:
        return delta.T if isinstance(self.get_base_layer(), Conv1D) else delta

    def __repr__(self) -> str:
        method = type(self).__name__.removesuffix("Layer").lower()
        return f"{method}.{super().__repr__()}"
