"""Settings of TeRA."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tera_pl.adapters.config import FrozenConfig
from tera_pl.errors import UserError
from tera_pl.tensor import Compute, CoreInit, FactorInit

PATTERN_KEYS = {"out_modes", "in_modes", "ranks"}
DEFAULT_OUT_MODES = 2


@dataclass
class TeraConfig(FrozenConfig):
    """TeRA: a Tucker-like random tensor network of which only vectors are trained.

    The weight update of a layer is a tensor whose leading modes make up the output dimension and
    whose other modes make up the input dimension. The paper's best trade-off tensorizes one
    dimension and does not split the other; `modes_pattern` chooses per module.

    Args:
        out_modes: Modes of the output dimension: their number, as equal as possible, or their
            sizes. 1 does not split the dimension. If not given, two, and a dimension that cannot
            be split, because it is prime or less than 4, stays as it is.
        in_modes: Modes of the input dimension, likewise; it is not split if not given.
        modes_pattern: Different `out_modes`, `in_modes` or `ranks` for modules whose name ends in,
            or matches, a key.
        ranks: One rank per mode, at most its size; the sizes themselves if not given, as in the
            paper.
        core_init: Distribution of the frozen core. Not in the paper: `half_normal`, absolute values
            of normal entries, whose rows share a direction; `constant`, with which all updates have
            rank one.
        factor_init: Distribution of the frozen factors; `identity` gives the paper's TeRA_iden.
            `kronecker`, of core or factors, makes each the Kronecker product of two small
            rotations, which costs very little; not in the paper.
        zero_vector: Which scaling vector starts at zero, so that the weight update does: the index
            of a mode, or `longest`. All others start at one.
        scaling: Multiplies the weight update.
        compute: How the weight update is applied: `factored` through the factors, `materialized` by
            building it, `auto` whichever is cheaper.
        recompute: Compute again in backward what forward could save for it, the materialized weight
            update or the output of the core: less memory, about one more product per layer.
        init_weights: False draws all scaling vectors at random; for tests.

    Raises:
        UserError: If the value of a field is invalid.
    """

    method = "TERA"
    BOUND = ("scaling",)

    out_modes: int | list[int] | None = None
    in_modes: int | list[int] = 1
    modes_pattern: dict[str, dict[str, Any]] = field(default_factory=dict)
    ranks: list[int] | None = None
    core_init: CoreInit = "normal"
    factor_init: FactorInit = "normal"
    zero_vector: Literal["longest"] | int = "longest"
    scaling: float = 1.0
    compute: Compute = "auto"
    recompute: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        # Whether injection has met a dimension that the default of `out_modes` does not split.
        self.has_unsplit = False
        self._check_zero_vector()
        self._check_modes()

    def to_dict(self) -> dict[str, Any]:
        """Give the settings, as adapter_config.json and checkpoints store them.

        Returns:
            Values by name. The default of `out_modes` is given by its number, unless that does not
            describe all layers.
        """
        settings = super().to_dict()
        if self.out_modes is None and not self.has_unsplit:
            settings["out_modes"] = DEFAULT_OUT_MODES
        return settings

    def _check_zero_vector(self) -> None:
        if self.zero_vector != "longest" and not isinstance(self.zero_vector, int):
            raise UserError(
                f"zero_vector is {self.zero_vector!r}: expected 'longest' or the index of a mode"
            )

    def _check_modes(self) -> None:
        out_modes = DEFAULT_OUT_MODES if self.out_modes is None else self.out_modes
        _check_sizes("", {"out_modes": out_modes, "in_modes": self.in_modes})
        for pattern, modes in self.modes_pattern.items():
            where = f"modes_pattern[{pattern!r}]"
            if not isinstance(modes, dict) or (unknown := modes.keys() - PATTERN_KEYS):
                found = ", ".join(sorted(unknown)) if isinstance(modes, dict) else repr(modes)
                raise UserError(f"{where} has {found}: expected {', '.join(sorted(PATTERN_KEYS))}")
            try:
                re.compile(pattern)
            except re.error as error:
                raise UserError(f"{where}: the key is not a regular expression ({error})") from None
            _check_sizes(where, modes)


def _check_sizes(where: str, modes: Mapping[str, Any]) -> None:
    """Refuse modes that fit no dimension; whether they fit the module is checked there."""
    for name in ("out_modes", "in_modes"):
        value = modes.get(name, 1)
        sizes = value if isinstance(value, list | tuple) else [value]
        if not sizes or any(type(size) is not int or size < 1 for size in sizes):
            raise UserError(
                f"{where}{'.' if where else ''}{name} is {value!r}: expected the number of modes, "
                "or a list of their sizes"
            )
