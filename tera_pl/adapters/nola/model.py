"""Inject NOLA into a model, with one copy of the random matrices of every size."""

from typing import Any

import torch
from peft import PeftConfig

from tera_pl.adapters.frozen_model import FrozenModel
from tera_pl.adapters.layer import AdapterLayer
from tera_pl.adapters.nola.config import NolaConfig
from tera_pl.adapters.nola.layer import Basis, NolaLayer
from tera_pl.tensor import FrozenKey


class NolaModel(FrozenModel):
    """A model with NOLA injected."""

    prefix: str = "nola_"
    tuner_layer_cls = NolaLayer
    frozen_cls = Basis

    def _shared(
        self, layer: AdapterLayer, adapter_name: str, config: PeftConfig, current_key: str
    ) -> dict[str, Any]:
        assert isinstance(config, NolaConfig)
        keys = [
            FrozenKey(config.seed, "B", 0, (config.k, layer.out_features, config.r), 0, "uniform"),
            FrozenKey(config.seed, "A", 0, (config.k, config.r, layer.in_features), 0, "uniform"),
        ]
        device, dtype = layer._get_base_layer_device_and_dtype(layer.get_base_layer())
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        return {"bases": self._share(keys, device, wide)}
