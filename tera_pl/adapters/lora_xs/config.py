"""Settings of LoRA-XS."""

from dataclasses import dataclass

from tera_pl.adapters.config import AdapterConfig
from tera_pl.adapters.fields import check_positive
from tera_pl.errors import UserError


@dataclass
class LoraXsConfig(AdapterConfig):
    """LoRA-XS: an r x r matrix between frozen singular vectors of the weight.

    The weight update is U S R V^T with the r largest singular values S of the weight and their
    vectors U and V; only R is trained. The vectors are saved with the adapter: computed again on
    another machine, they may differ in sign or, where singular values are close, turn.

    Args:
        r: Size of the matrix, at most the smaller dimension of each layer.
        scaling: Factor of the weight update; the paper has none.
        init_std: Standard deviation of the entries of R at the start, as in the paper; 0 starts
            at zero.
        init_weights: False draws R with a standard deviation of r^-1/2, so that a fresh adapter
            has an effect; for tests.

    Raises:
        UserError: If the value of a field is invalid.
    """

    method = "LORAXS"
    BOUND = ("scaling",)

    r: int = 32
    scaling: float = 1.0
    init_std: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "r")
        if not 0 <= self.init_std < float("inf"):
            raise UserError(f"init_std is {self.init_std}: expected a finite number of at least 0")
