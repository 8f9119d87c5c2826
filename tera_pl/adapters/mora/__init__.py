"""MoRA (Jiang et al., arXiv 2405.12130) as a PEFT method."""

from tera_pl.adapters.mora.config import MoraConfig
from tera_pl.adapters.mora.layer import MoraLayer
from tera_pl.adapters.mora.model import MoraModel

__all__ = ["MoraConfig", "MoraLayer", "MoraModel"]
