"""Settings of LoRETTA."""

from dataclasses import dataclass
from typing import Literal

from tera_pl.adapters.config import AdapterConfig
from tera_pl.adapters.fields import check_positive

Start = Literal["official", "zero"]


@dataclass
class LorettaConfig(AdapterConfig):
    """LoRETTA: LoRA whose two factors are tensor trains (the authors' variant LoRETTA_rep).

    The weight update is (alpha / r) (A B)^T with A of shape (in, r) and B of shape (r, out). Each
    factor is flattened and written as a tensor train; all cores are trained.

    Args:
        r: Rank of the weight update.
        alpha: The weight update is multiplied by alpha / r.
        tensor_rank: Rank of the tensor trains, between all cores.
        in_modes: Modes of A, whose product is in * r: their number, as equal as possible, or their
            sizes. If not given, the authors' modes for this dimension and r, or else five.
        out_modes: Modes of B, whose product is r * out, likewise.
        start: `official` draws all cores, so that the initial weight update is not zero; `zero`
            starts the last core of B at zero.
        train_norms: Train the weights of all normalization layers too, as the authors' code does.
            They are then saved like `modules_to_save`, in the dtype of the base; in 16 bits, small
            optimizer steps are lost on weights near one.
        init_weights: False draws all cores, whatever `start` is; for tests.

    Raises:
        UserError: If the value of a field is invalid.
    """

    method = "LORETTA"
    BOUND = ("alpha",)

    r: int = 8
    alpha: float = 16.0
    tensor_rank: int = 5
    in_modes: int | list[int] | None = None
    out_modes: int | list[int] | None = None
    start: Start = "official"
    train_norms: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "r", "tensor_rank")
