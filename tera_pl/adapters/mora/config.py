"""Settings of MoRA."""

from dataclasses import dataclass
from typing import ClassVar, get_args

from peft.utils import PeftType

from tera_pl.adapters.config import AdapterConfig
from tera_pl.adapters.fields import check_common_fields, check_positive
from tera_pl.adapters.mora.compression import Form
from tera_pl.errors import UserError


@dataclass
class MoraConfig(AdapterConfig):
    """MoRA: a square matrix between a compression of the input and a decompression of the output.

    The matrix has about as many numbers as LoRA's two factors of rank `r`, and a far higher rank.
    It is the only thing trained, starts at zero and is used as it is, without scaling.

    Args:
        target_modules: Names of the modules to adapt, a pattern that matches whole names, or
            `all-linear`.
        exclude_modules: Names, or a pattern, of modules to leave alone.
        modules_to_save: Modules that are trained in full and saved with the adapter.
        layers_to_transform: Indices of the layers to adapt; all if not given.
        layers_pattern: Name of the list of layers, if it is none of the usual.
        r: Rank of the LoRA that has as many numbers; the matrix has floor(sqrt((in + out) r)) rows
            and columns, less one if `rotation` needs an even size.
        r_hat: Size of the matrix, in place of the one that `r` gives.
        form: `rotation` cuts the input in chunks and turns each by its own angles (Eq. 9, for small
            r); `sharing` adds the chunks up (Eq. 6, for large r). Where a layer has far fewer
            outputs than inputs, `rotation` leaves the last chunks unused.
        dropout: Probability of dropping an input of the update.
        init_weights: False draws the matrix at random, so that a fresh adapter has an effect; for
            tests.

    Raises:
        UserError: If a value is none that its field can take.
    """

    BOUND: ClassVar[tuple[str, ...]] = ("form",)

    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    r: int = 8
    r_hat: int | None = None
    form: Form = "rotation"
    dropout: float = 0.0
    init_weights: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType.MORA
        check_common_fields(self)
        check_positive(self, "r")
        if self.form not in get_args(Form):
            raise UserError(f"form is {self.form!r}: expected {' or '.join(get_args(Form))}")
        if self.r_hat is None:
            return
        check_positive(self, "r_hat")
        if self.form == "rotation" and self.r_hat % 2:
            raise UserError(f"r_hat is {self.r_hat}: rotation turns pairs, so it must be even")
