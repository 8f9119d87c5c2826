"""LoRETTA (Yang et al., arXiv 2402.11417) as a PEFT method."""

from tera_pl.adapters.loretta.config import LorettaConfig
from tera_pl.adapters.loretta.layer import LorettaLayer
from tera_pl.adapters.loretta.model import LorettaModel

__all__ = ["LorettaConfig", "LorettaLayer", "LorettaModel"]
