"""LoRA-XS (Bałazy et al., arXiv 2405.17604) as a PEFT method."""

from tera_pl.adapters.lora_xs.config import LoraXsConfig
from tera_pl.adapters.lora_xs.layer import LoraXsLayer
from tera_pl.adapters.lora_xs.model import LoraXsModel

__all__ = ["LoraXsConfig", "LoraXsLayer", "LoraXsModel"]
