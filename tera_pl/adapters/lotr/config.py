"""Settings of LoTR."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from peft.utils import PeftType

from tera_pl.adapters.config import AdapterConfig
from tera_pl.adapters.fields import check_common_fields, check_positive
from tera_pl.errors import UserError

Share = Literal["shape", "name"]


@dataclass
class LotrConfig(AdapterConfig):
    """LoTR: the updates of many layers as one tensor train of which they share the outer factors.

    The update of layer l is (alpha / r) L M_l R. The left factor L and the right factor R are one
    trained parameter each for all the layers that share them, the core M_l is the layer's own and
    starts at zero.

    Args:
        target_modules: Names of the modules to adapt, a pattern that matches whole names, or
            `all-linear`.
        exclude_modules: Names, or a pattern, of modules to leave alone.
        modules_to_save: Modules that are trained in full and saved with the adapter.
        layers_to_transform: Indices of the layers to adapt; all if not given.
        layers_pattern: Name of the list of layers, if it is none of the usual.
        r: Rank of the update, size of the cores.
        alpha: The update is multiplied by alpha / r.
        share: Who shares factors: all adapted layers of one `shape`, as in the authors' example,
            or only those that have the last part of their `name` in common too.
        dropout: Probability of dropping an input of the update.
        init_weights: False draws the cores at random too, so that a fresh adapter has an effect;
            for tests.

    Raises:
        UserError: If a value is none that its field can take.
    """

    BOUND: ClassVar[tuple[str, ...]] = ("alpha", "share")

    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    r: int = 8
    alpha: float = 1.0
    share: Share = "shape"
    dropout: float = 0.0
    init_weights: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType.LOTR
        check_common_fields(self)
        check_positive(self, "r")
        if self.share not in get_args(Share):
            raise UserError(f"share is {self.share!r}: expected {' or '.join(get_args(Share))}")
