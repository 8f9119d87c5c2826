"""Inject LoRA-XS into a model."""

from tera_pl.adapters.lora_xs.layer import LoraXsLayer
from tera_pl.adapters.model import AdapterModel


class LoraXsModel(AdapterModel):
    """A model with LoRA-XS injected."""

    prefix: str = "loraxs_"
    tuner_layer_cls = LoraXsLayer
