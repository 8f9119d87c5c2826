"""NOLA (Koohpayegani et al., arXiv 2310.02556) as a PEFT method."""

from tera_pl.adapters.nola.config import NolaConfig
from tera_pl.adapters.nola.layer import NolaLayer
from tera_pl.adapters.nola.model import NolaModel

__all__ = ["NolaConfig", "NolaLayer", "NolaModel"]
