"""Inject MoRA into a model."""

from tera_pl.adapters.model import AdapterModel
from tera_pl.adapters.mora.layer import MoraLayer


class MoraModel(AdapterModel):
    """A model with MoRA injected."""

    prefix: str = "mora_"
    tuner_layer_cls = MoraLayer
