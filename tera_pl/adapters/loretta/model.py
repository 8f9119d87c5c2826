"""Inject LoRETTA into a model."""

from typing import Any

from peft import PeftConfig
from torch import nn

from tera_pl.adapters.layer import AdapterLayer
from tera_pl.adapters.loretta.config import LorettaConfig
from tera_pl.adapters.loretta.layer import LorettaLayer
from tera_pl.adapters.model import AdapterModel


class LorettaModel(AdapterModel):
    """A model with LoRETTA injected."""

    prefix: str = "loretta_"
    tuner_layer_cls = LorettaLayer

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> Any:
        """Inject an adapter, and have PEFT train the norms if its configuration says so.

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

    def _add_adapter(
        self,
        layer: AdapterLayer,
        adapter_name: str,
        config: PeftConfig,
        current_key: str,
        inference_mode: bool,
    ) -> None:
        assert isinstance(layer, LorettaLayer)
        assert isinstance(config, LorettaConfig)
        layer.update_layer(adapter_name, config, inference_mode)


def _norms(model: nn.Module) -> list[str]:
    """Name the normalization layers: modules called so that hold parameters of their own."""
    return [
        name
        for name, module in model.named_modules()
        if "norm" in name.rpartition(".")[2] and list(module.parameters(recurse=False))
    ]
