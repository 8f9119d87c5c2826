"""The common part of injecting a method into a model."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import (
    TRANSFORMERS_MODELS_TO_VERA_TARGET_MODULES_MAPPING,
    AuxiliaryTrainingWrapper,
)
from peft.utils.quantization_utils import get_quantization_kwargs, resolve_quantization_backend
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tera_pl.adapters.config import AdapterConfig
from tera_pl.adapters.layer import AdapterLayer
from tera_pl.adapters.loading import check_loaded, names_in_file
from tera_pl.errors import UserError


class AdapterModel(BaseTuner):
    """A model with a method injected.

    A subclass sets `prefix` and `tuner_layer_cls`; where layers share something, it implements
    `_shared`.
    """

    tuner_layer_cls: type[AdapterLayer]
    # Query and value projections, as in the paper.
    target_module_mapping = TRANSFORMERS_MODELS_TO_VERA_TARGET_MODULES_MAPPING

    @torch.inference_mode(False)  # an adapter that is loaded for inference may be trained later
    def inject_adapter(self, *args: Any, **kwargs: Any) -> Any:
        """Inject an adapter.

        Args:
            *args: As PEFT gives them.
            **kwargs: As PEFT gives them.

        Returns:
            What PEFT returns.
        """
        result = super().inject_adapter(*args, **kwargs)
        kinds = AdapterLayer | AuxiliaryTrainingWrapper
        self._named_layers = [m for m in self.model.modules() if isinstance(m, kinds)]
        return result

    @torch.inference_mode(False)
    def _cast_adapter_dtype(self, *args: Any, **kwargs: Any) -> None:
        super()._cast_adapter_dtype(*args, **kwargs)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Pass `adapter_names`, if given, to every layer; PEFT calls this around a forward pass."""
        names = kwargs.get("adapter_names")
        if names is None:
            yield
            return
        self._check_adapter_names(names)
        beams = kwargs.get("num_beams") or 1
        repeated = [name for name in names for _ in range(beams)]
        # An encoder reads every example once, whatever the number of beams.
        encoder = self.model.get_encoder() if hasattr(self.model, "get_encoder") else self.model
        once = set() if encoder is self.model else set(encoder.modules())
        handles = []
        for module in self._named_layers:
            add_names = partial(_add_names, names=names if module in once else repeated)
            handles.append(module.register_forward_pre_hook(add_names, with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _check_adapter_names(self, names: Any) -> None:
        # The messages are PEFT's.
        if not isinstance(names, list | tuple):
            raise TypeError(f"Got adapter names of type {type(names)}, expected a list of str.")
        if self.training:
            raise ValueError("Cannot pass `adapter_names` when the model is in training mode.")
        # Not every layer has every adapter, so a single layer cannot check this.
        layers = [layer for layer in self._named_layers if isinstance(layer, AdapterLayer)]
        known = {name for layer in layers for name in layer.own_adapters(names)}
        if unknown := set(names) - known - {"__base__"}:
            raise ValueError(
                f"Trying to infer with non-existing adapter(s): {', '.join(sorted(unknown))}"
            )

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls,
        model: nn.Module,
        config: PeftConfig,
        adapter_name: str,
        state_dict: dict[str, Tensor],
    ) -> dict[str, Tensor]:
        """Rename tensors to their names in the model, and refuse any that are not the adapter's.

        PEFT itself only warns about missing tensors, which keep the values of a new adapter.
        """
        assert isinstance(config, AdapterConfig)
        state = cls._take_frozen(model, config, adapter_name, state_dict)
        state = super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state)
        state = cls._add_aliases(model, adapter_name, state)
        check_loaded(model, adapter_name, state)
        config.verify_weights(names_in_file(model, adapter_name, state_dict))
        return state

    @classmethod
    def _take_frozen(
        cls, model: nn.Module, config: PeftConfig, adapter_name: str, state: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Load what is saved beside the trainable parameters, and return these."""
        return state

    @classmethod
    def _add_aliases(
        cls, model: nn.Module, adapter_name: str, state: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Add all names in the model of tensors that are saved once."""
        return state

    def _shared(
        self, layer: AdapterLayer, adapter_name: str, config: PeftConfig, current_key: str
    ) -> dict[str, Any]:
        """Collect what a layer shares with others, as arguments of its `create_parameters`."""
        return {}

    def _create_and_replace(
        self,
        peft_config: PeftConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **optional_kwargs: Any,
    ) -> None:
        is_new = not isinstance(target, self.tuner_layer_cls)
        layer = self._wrap(target, current_key) if is_new else target
        assert isinstance(layer, AdapterLayer)
        # An adapter that is added beside an active one is not trained until it is activated.
        inactive = adapter_name not in self.active_adapters
        frozen = bool(peft_config.inference_mode) and not inactive
        try:
            shared = self._shared(layer, adapter_name, peft_config, current_key)
            layer.update_layer(adapter_name, peft_config, inference_mode=frozen, **shared)
        except ValueError as error:
            raise UserError(f"module {current_key}: {error}") from None
        if is_new:
            if inactive:
                layer.requires_grad_(False)
            self._replace_module(parent, target_name, layer, target)

    def _wrap(self, target: nn.Module, current_key: str) -> AdapterLayer:
        base: Any = target
        if isinstance(target, BaseTunerLayer):
            base = target.get_base_layer()
        kwargs = get_quantization_kwargs(self)
        if (
            not isinstance(base, nn.Linear | Conv1D)
            and resolve_quantization_backend(base, **kwargs) is None
        ):
            method = type(self).__name__.removesuffix("Model")
            raise UserError(
                f"module {current_key} is a {type(base).__name__}: {method} adapts Linear layers, "
                "quantized or not, and Conv1D"
            )
        layer = self.tuner_layer_cls(target, **kwargs)
        layer.set_adapter(self.active_adapters)
        return layer


def _add_names(
    module: nn.Module, args: Any, kwargs: dict[str, Any], names: Sequence[str]
) -> tuple[Any, dict[str, Any]]:
    return args, kwargs | {"adapter_names": names}
