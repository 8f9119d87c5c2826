"""Inject LoRETTA into a model."""

from typing import Any

from torch import nn

from tera_pl.adapters.loretta.config import LorettaConfig
from tera_pl.adapters.loretta.layer import LorettaLayer
from tera_pl.adapters.model import AdapterModel


class LorettaModel(AdapterModel):
    """A model with LoRETTA injected."""

    prefix: str = "loretta_"
    tuner_layer_cls = LorettaLayer

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> Any:
        """Inject an adapter; with `train_norms`, add the normalization layers to `modules_to_save`.

        Args:
            model: The model; changed in place.
            adapter_name: Name of the adapter.
            *args: As PEFT gives them.
            **kwargs: As PEFT gives them.

        Returns:
            What PEFT returns.
        """
        config = self.peft_config[adapter_name]
        assert isinstance(config, LorettaConfig)
        if config.train_norms:
            norms = {name.rpartition(".")[2] for name in _norms(model)}
            config.modules_to_save = sorted({*(config.modules_to_save or []), *norms})
        return super().inject_adapter(model, adapter_name, *args, **kwargs)


def _norms(model: nn.Module) -> list[str]:
    """Names of the normalization layers: modules with "norm" in their name and own parameters."""
    return [
        name
        for name, module in model.named_modules()
        if "norm" in name.rpartition(".")[2] and list(module.parameters(recurse=False))
    ]
