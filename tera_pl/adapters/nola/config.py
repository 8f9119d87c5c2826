"""Settings of NOLA."""

from dataclasses import dataclass

from tera_pl.adapters.config import FrozenConfig
from tera_pl.adapters.fields import check_positive


@dataclass
class NolaConfig(FrozenConfig):
    """NOLA: LoRA whose factors are linear combinations of frozen random matrices.

    The weight update is B A with A = sum_i alpha_i A_i and B = sum_j beta_j B_j; only the k
    coefficients of each factor are trained. Entries of A_i and B_j are uniform in
    [-1, 1] / sqrt(k), as in the authors' code for Llama-2. The betas start at zero, and the alphas
    where A has the variance that it has in LoRA.

    All layers with the same number of inputs share the A_i, those with the same number of outputs
    the B_j, and both stay in memory: k r n numbers in float32 for each size n of inputs and of
    outputs, whatever the dtype of the base. With k = 1024 and r = 16 these are 0.54 GB for q and v
    of Llama-2-7B, 0.60 GB for Llama-3-8B. Each forward and each backward pass of a layer reads its
    matrices once.

    Args:
        r: Rank of the weight update.
        k: Number of random matrices of each factor.
        scaling: Factor of the weight update; the authors' lora_alpha / r.
        init_weights: False draws the betas from the standard normal distribution, so that a fresh
            adapter has an effect; for tests.

    Raises:
        UserError: If the value of a field is invalid.
    """

    method = "NOLA"
    BOUND = ("scaling",)

    r: int = 16
    k: int = 1024
    scaling: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "r", "k")
