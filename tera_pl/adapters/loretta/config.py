"""Settings of LoRETTA."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from peft.utils import PeftType

from tera_pl.adapters.config import AdapterConfig
from tera_pl.adapters.fields import check_common_fields, check_positive
from tera_pl.errors import UserError

Start = Literal["official", "zero"]


@dataclass
class LorettaConfig(AdapterConfig):
    """LoRETTA: LoRA whose two factors are tensor trains (the authors' variant LoRETTA_rep).

    The update is (alpha / r) (A B)^T with A of shape (in, r) and B of shape (r, out); each is
    flattened and written as a tensor train, all of whose cores are trained.

    Args:
        target_modules: Names of the modules to adapt, a pattern that matches whole names, or
            `all-linear`.
        exclude_modules: Names, or a pattern, of modules to leave alone.
        modules_to_save: Modules that are trained in full and saved with the adapter.
        layers_to_transform: Indices of the layers to adapt; all if not given.
        layers_pattern: Name of the list of layers, if it is none of the usual.
        r: Rank of the update.
        alpha: The update is multiplied by alpha / r.
        tensor_rank: Rank of the tensor trains, between all cores.
        in_modes: Modes of A, whose product is in * r: how many, as equal as they can be, or their
            sizes. If not given, the authors' where they have some for this dimension and r, or
            five.
        out_modes: Modes of B, whose product is r * out, likewise.
        start: `official` draws all cores, so that the update is not zero at the start; `zero` has
            the last core of B at zero.
        train_norms: Train the weights of all normalization layers too, as the authors' code does.
            They are then saved like `modules_to_save`, in the type of the base; in 16 bits, small
            steps are lost on weights near one.
        dropout: Probability of dropping an input of the update.
        init_weights: False draws all cores whatever `start` says, so that a fresh adapter has an
            effect; for tests.

    Raises:
        UserError: If a value is none that its field can take.
    """

    BOUND: ClassVar[tuple[str, ...]] = ("alpha",)

    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    r: int = 8
    alpha: float = 16.0
    tensor_rank: int = 5
    in_modes: int | list[int] | None = None
    out_modes: int | list[int] | None = None
    start: Start = "official"
    train_norms: bool = False
    dropout: float = 0.0
    init_weights: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType.LORETTA
        check_common_fields(self)
        check_positive(self, "r", "tensor_rank")
        if self.start not in get_args(Start):
            raise UserError(f"start is {self.start!r}: expected {' or '.join(get_args(Start))}")
