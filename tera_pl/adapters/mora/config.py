"""Settings of MoRA."""

from dataclasses import dataclass

from tera_pl.adapters.config import AdapterConfig
from tera_pl.adapters.fields import check_positive
from tera_pl.adapters.mora.compression import Form
from tera_pl.errors import UserError


@dataclass
class MoraConfig(AdapterConfig):
    """MoRA: a square matrix between a compression of the input and a decompression of the output.

    The matrix has about as many parameters as LoRA's two factors of rank `r`, and a far higher
    rank. Only the matrix is trained; it starts at zero and is applied without scaling.

    Args:
        r: Rank of the LoRA with as many parameters; the matrix has floor(sqrt((in + out) r)) rows
            and columns, one less if `rotation` needs an even size.
        r_hat: Size of the matrix, instead of the one that follows from `r`.
        form: `rotation` splits the input into chunks and rotates each by its own angles (Eq. 9, for
            small r); `sharing` adds the chunks (Eq. 6, for large r). If a layer has far fewer
            outputs than inputs, `rotation` does not use the last chunks.
        init_weights: False draws the matrix at random, so that a fresh adapter has an effect; for
            tests.

    Raises:
        UserError: If the value of a field is invalid.
    """

    method = "MORA"
    BOUND = ("form",)

    r: int = 8
    r_hat: int | None = None
    form: Form = "rotation"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "r")
        if self.r_hat is None:
            return
        check_positive(self, "r_hat")
        if self.form == "rotation" and self.r_hat % 2:
            raise UserError(f"r_hat is {self.r_hat}: rotation rotates pairs, so it must be even")
