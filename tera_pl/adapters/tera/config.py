"""Settings of TeRA."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

from peft.utils import PeftType

from tera_pl.adapters.config import AdapterConfig
from tera_pl.adapters.fields import check_common_fields
from tera_pl.errors import UserError
from tera_pl.tensor import Compute, CoreInit, FactorInit

PATTERN_KEYS = {"out_modes", "in_modes", "ranks"}


@dataclass
class TeraConfig(AdapterConfig):
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
            `kronecker`, of core or factors, makes each the Kronecker product of two small
            rotations, which costs next to nothing; not in the paper.
        zero_vector: Which vector starts at zero, so that the update does: the index of a mode, or
            `longest`. All others start at one.
        scaling: Multiplies the update.
        dropout: Probability of dropping an input of the update.
        compute: How the update is applied: `factored` through the factors, `materialized` by
            building it, `auto` whichever costs less.
        recompute: Compute again in backward what forward could keep for it, the built update or
            the output of the core: less memory, for about one product more per layer.
        save_frozen: Save the frozen tensors in the adapter's file too. Without, they are drawn
            again from the seed and verified by their hash.
        init_weights: False draws all vectors at random, so that a fresh adapter has an effect; for
            tests.
        frozen_sha256: Hash of the frozen tensors. Set by the adapter, verified when it is loaded.

    Raises:
        UserError: If a value is none that its field can take.
    """

    BOUND: ClassVar[tuple[str, ...]] = ("scaling",)

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
    recompute: bool = False
    save_frozen: bool = False
    init_weights: bool = True
    frozen_sha256: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType.TERA
        # What was asked for, apart from what an adapter writes into its field later: a config may
        # serve another model after this one.
        self.expected_sha256 = self.frozen_sha256
        check_common_fields(self)
        self._check_choices()
        self._check_modes()

    def _check_choices(self) -> None:
        for name, allowed in (
            ("core_init", CoreInit),
            ("factor_init", FactorInit),
            ("compute", Compute),
        ):
            if getattr(self, name) not in get_args(allowed):
                raise UserError(
                    f"{name} is {getattr(self, name)!r}: expected {', '.join(get_args(allowed))}"
                )
        if self.zero_vector != "longest" and not isinstance(self.zero_vector, int):
            raise UserError(
                f"zero_vector is {self.zero_vector!r}: expected 'longest' or the index of a mode"
            )

    def _check_modes(self) -> None:
        _check_sizes("", {"out_modes": self.out_modes, "in_modes": self.in_modes})
        for pattern, modes in self.modes_pattern.items():
            where = f"modes_pattern[{pattern!r}]"
            if not isinstance(modes, dict) or (unknown := modes.keys() - PATTERN_KEYS):
                found = ", ".join(sorted(unknown)) if isinstance(modes, dict) else repr(modes)
                raise UserError(f"{where} has {found}: expected {', '.join(sorted(PATTERN_KEYS))}")
            try:
                re.compile(pattern)
            except re.error as error:
                raise UserError(f"{where}: the key is no regular expression ({error})") from None
            _check_sizes(where, modes)


def _check_sizes(where: str, modes: Mapping[str, Any]) -> None:
    """Refuse what cannot be modes of any dimension; whether they fit is seen at the module."""
    for name in ("out_modes", "in_modes"):
        value = modes.get(name, 1)
        sizes = value if isinstance(value, list | tuple) else [value]
        if not sizes or any(type(size) is not int or size < 1 for size in sizes):
            raise UserError(
                f"{where}{'.' if where else ''}{name} is {value!r}: expected how many modes, or "
                "a list of their sizes"
            )
