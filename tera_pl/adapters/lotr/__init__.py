"""LoTR (Bershatsky et al., arXiv 2402.01376) as a PEFT method."""

from tera_pl.adapters.lotr.config import LotrConfig
from tera_pl.adapters.lotr.layer import LotrLayer
from tera_pl.adapters.lotr.model import LotrModel

__all__ = ["LotrConfig", "LotrLayer", "LotrModel"]
