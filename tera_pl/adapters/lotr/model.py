"""Inject LoTR into a model, with one trained copy of every shared factor."""

from collections.abc import Iterator
from typing import Any

from peft import PeftConfig
from torch import Tensor, nn

from tera_pl.adapters.layer import AdapterLayer
from tera_pl.adapters.lotr.config import LotrConfig
from tera_pl.adapters.lotr.layer import LotrLayer, SharedFactors
from tera_pl.adapters.model import AdapterModel

FSDP_PREFIX = "_fsdp_wrapped_module."


class LotrModel(AdapterModel):
    """A model with LoTR injected.

    The layers of a group have the same module of factors. Lists of parameters, and with them
    optimizers and counts, contain its factors once, under the name of the group's first layer; so
    does the adapter's file. With DDP, gradient checkpointing must be non-reentrant: with the
    reentrant kind each layer reports the factors' gradient separately, which DDP refuses.
    """

    prefix: str = "lotr_"
    tuner_layer_cls = LotrLayer

    def _shared(
        self, layer: AdapterLayer, adapter_name: str, config: PeftConfig, current_key: str
    ) -> dict[str, Any]:
        assert isinstance(config, LotrConfig)
        sizes = (layer.out_features, layer.in_features)
        group = (*sizes, current_key.rpartition(".")[2] if config.share == "name" else None)
        known = {factors.group: factors for _, factors in _factors_of(self.model, adapter_name)}
        return {"factors": known.get(group) or SharedFactors(*sizes, config.r, group)}

    @classmethod
    def _get_adapter_state_dict(
        cls,
        model: nn.Module,
        config: PeftConfig,
        adapter_name: str,
        state_dict: dict[str, Tensor],
        unwanted_adapter_names: list[str],
    ) -> dict[str, Tensor]:
        state = super()._get_adapter_state_dict(
            model, config, adapter_name, state_dict, unwanted_adapter_names
        )
        repeated = {name for names in _aliases(model, adapter_name) for name in names[1:]}
        return {name: value for name, value in state.items() if name not in repeated}

    @classmethod
    def _add_aliases(
        cls, model: nn.Module, adapter_name: str, state: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        for names in _aliases(model, adapter_name):
            saved = [state[name] for name in names if name in state]
            if saved:
                state |= dict.fromkeys(names, saved[0])
        return state


def _factors_of(model: nn.Module, adapter_name: str) -> Iterator[tuple[str, SharedFactors]]:
    """Factors of each layer, with their names in a state dict."""
    for name, module in model.named_modules():
        if isinstance(module, LotrLayer) and adapter_name in module.lotr_shared:
            factors = module.lotr_shared[adapter_name]
            assert isinstance(factors, SharedFactors)
            prefix = f"{name.replace(FSDP_PREFIX, '')}." if name else ""
            yield f"{prefix}lotr_shared.{adapter_name}", factors


def _aliases(model: nn.Module, adapter_name: str) -> list[list[str]]:
    """Names of each shared parameter in a state dict, the name in the first layer first."""
    names: dict[int, list[str]] = {}
    for name, factors in _factors_of(model, adapter_name):
        names.setdefault(id(factors), []).append(name)
    return [
        [f"{name}.{side}" for name in group]
        for group in names.values()
        for side in ("left", "right")
    ]
