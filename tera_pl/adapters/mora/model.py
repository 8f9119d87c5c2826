"""Inject MoRA into a model."""

from peft import PeftConfig

from tera_pl.adapters.layer import AdapterLayer
from tera_pl.adapters.model import AdapterModel
from tera_pl.adapters.mora.config import MoraConfig
from tera_pl.adapters.mora.layer import MoraLayer


class MoraModel(AdapterModel):
    """A model with MoRA injected."""

    prefix: str = "mora_"
    tuner_layer_cls = MoraLayer

    def _add_adapter(
        self,
        layer: AdapterLayer,
        adapter_name: str,
        config: PeftConfig,
        current_key: str,
        inference_mode: bool,
    ) -> None:
        assert isinstance(layer, MoraLayer)
        assert isinstance(config, MoraConfig)
        layer.update_layer(adapter_name, config, inference_mode)
