"""Settings of LoTR."""

from dataclasses import dataclass
from typing import Literal

from tera_pl.adapters.config import AdapterConfig
from tera_pl.adapters.fields import check_positive

Share = Literal["shape", "name"]


@dataclass
class LotrConfig(AdapterConfig):
    """LoTR: weight updates of many layers as one tensor train with shared outer factors.

    The weight update of layer l is (alpha / r) L M_l R. The left factor L and the right factor R
    are one trainable parameter each for all layers that share them; each layer has its own core
    M_l, which starts at zero.

    Args:
        r: Rank of the weight update, size of the cores.
        alpha: The weight update is multiplied by alpha / r.
        share: Which layers share factors: all adapted layers of one `shape`, as in the authors'
            example, or only those that also have the last part of their `name` in common.
        init_weights: False draws the cores at random too; for tests.

    Raises:
        UserError: If the value of a field is invalid.
    """

    method = "LOTR"
    BOUND = ("alpha", "share")

    r: int = 8
    alpha: float = 1.0
    share: Share = "shape"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "r")
