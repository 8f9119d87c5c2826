"""Settings of TeRA."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from peft import PeftConfig
from peft.utils import PeftType

from tera_pl.tensor import Compute, CoreInit, FactorInit

PATTERN_KEYS = {"out_modes", "in_modes", "ranks"}


@dataclass
class TeraConfig(PeftConfig):
    """TeRA: a Tucker-like random tensor network of which only vectors are trained.

    The update of a layer is a tensor whose leading modes make the output dimension and whose
    other modes make the input dimension. The paper's best trade-off splits one dimension and
    leaves the other whole; which one is a choice per module (`modes_pattern`).

    Args:
        target_modules: Names of the modules to adapt (the paper: `q_proj` and `v_proj`), a
            pattern that matches whole names, or `all-linear`.
        exclude_modules: Names, or a pattern, of modules to leave alone.
        modules_to_save: Modules that are trained in full and saved with the adapter.
        layers_to_transform: Indices of the layers to adapt; all if not given.
        layers_pattern: Name of the list of layers, if it is none of the usual.
        out_modes: Modes of the output dimension: how many equal ones, or their sizes. 1 leaves the
            dimension whole.
        in_modes: Modes of the input dimension, likewise.
        modes_pattern: Other `out_modes`, `in_modes` or `ranks` for modules whose name ends in, or
            matches, a key.
        ranks: One rank per mode, at most its size; the sizes themselves if not given (the paper).
        seed: Seed of the frozen tensors, apart from any other seed.
        core_init: Distribution of the frozen core.
        factor_init: Distribution of the frozen factors; `identity` gives the paper's TeRA_iden.
        zero_vector: Which vector starts at zero, so that the update does: the index of a mode, or
            `longest`. All others start at one.
        scaling: Multiplies the update.
        dropout: Probability of dropping an input of the update.
        compute: How the update is applied: `factored` through the factors, `materialised` by
            building it, `auto` whichever costs less.
        save_frozen: Save the frozen tensors in the adapter's file too. Without, they are drawn
            again from the seed and verified by their hash.
        init_weights: False draws all vectors at random, so that a fresh adapter has an effect; for
            tests.
        frozen_sha256: Hash of the frozen tensors. Set by the adapter, verified when it is loaded.
    """

    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    out_modes: int | list[int] = 2
    in_modes: int | list[int] = 1
    modes_pattern: dict[str, dict[str, Any]] = field(default_factory=dict)
    ranks: list[int] | None = None
    seed: int = 0
    core_init: CoreInit = "normal"
    factor_init: FactorInit = "normal"
    zero_vector: Literal["longest"] | int = "longest"
    scaling: float = 1.0
    dropout: float = 0.0
    compute: Compute = "auto"
    save_frozen: bool = False
    init_weights: bool = True
    frozen_sha256: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType.TERA
        for name in ("target_modules", "exclude_modules"):
            value = getattr(self, name)
            setattr(self, name, set(value) if isinstance(value, list) else value)
        for name, allowed in (
            ("core_init", CoreInit),
            ("factor_init", FactorInit),
            ("compute", Compute),
        ):
            if getattr(self, name) not in get_args(allowed):
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}: expected {', '.join(get_args(allowed))}"
                )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}: expected at least 0 and less than 1")
        if self.zero_vector != "longest" and not isinstance(self.zero_vector, int):
            raise ValueError(
                f"zero_vector is {self.zero_vector!r}: expected 'longest' or the index of a mode"
            )
        for pattern, modes in self.modes_pattern.items():
            if unknown := modes.keys() - PATTERN_KEYS:
                raise ValueError(
                    f"modes_pattern[{pattern!r}] has {', '.join(sorted(unknown))}: expected "
                    f"{', '.join(sorted(PATTERN_KEYS))}"
                )
