"""TeRA (Gu et al., arXiv 2509.03234) as a PEFT method."""

from tera_pl.adapters.tera.config import TeraConfig
from tera_pl.adapters.tera.layer import TeraLayer
from tera_pl.adapters.tera.model import TeraModel

__all__ = ["TeraConfig", "TeraLayer", "TeraModel"]
