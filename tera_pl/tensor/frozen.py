"""Frozen random tensors that depend on their key alone.

Each tensor is drawn on the CPU from its own stream of bits: SHAKE-256 over the text of its key.
Each step from bits to float32 is exact or correctly rounded (integer arithmetic; single +, -, *, /
and square roots in float64), so the result does not depend on device, threads, vector unit or the
version of torch. Seeded generators of torch do not guarantee that: `torch.randn` returns other bits
with AVX2 than without.

With `I_i` and `R_i` as in `tera_pl.tensor.network`, variances make the weight update unit-gain:
with all scaling vectors one, `E ||DeltaW x||^2 = ||x||^2`. That holds for variances `1 / R_i` of in
factors, `1 / I_i` of out factors and `1 / prod(R_out)` of the core; identity factors stay unscaled.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal

import torch
from torch import Tensor, nn

from tera_pl.errors import UserError
from tera_pl.tensor.modes import plan_modes
from tera_pl.tensor.streams import constant, half_normal, kac_rotation, normal, rademacher, uniform

SCHEME = 1

CoreInit = Literal[
    "normal", "uniform", "rademacher", "orthogonal", "kronecker", "half_normal", "constant"
]
FactorInit = Literal["normal", "uniform", "rademacher", "orthogonal", "kronecker", "identity"]


@dataclass(frozen=True)
class FrozenKey:
    """Everything a frozen tensor depends on.

    Args:
        seed: Seed of the adapter.
        role: `core`, `out` or `in` for a factor of an out or in mode, or `A` or `B` for all random
            matrices of a factor of NOLA.
        position: Index of the factor's mode among the out or in modes; otherwise 0.
        shape: Shape of the tensor: the ranks, `(R_i, I_i)`, or `(k, rows, columns)`.
        split: Number of out modes of a core; otherwise 0.
        distribution: How entries are drawn.
    """

    seed: int
    role: Literal["core", "out", "in", "A", "B"]
    position: int
    shape: tuple[int, ...]
    split: int
    distribution: CoreInit | FactorInit

    @property
    def text(self) -> str:
        """The key as the text that seeds the stream."""
        shape = "x".join(map(str, self.shape))
        return (
            f"tera/{SCHEME}/{self.seed}/{self.role}/{self.position}/{shape}/{self.split}/"
            f"{self.distribution}"
        )

    @property
    def variance(self) -> float:
        """Variance of an entry: for TeRA that of a unit-gain weight update, see the module."""
        if self.role == "core":
            return 1 / math.prod(self.shape[: self.split])
        if self.role in ("A", "B"):
            return 1 / (3 * self.shape[0])  # that of [-1, 1] / sqrt(k)
        return 1 / (self.shape[0] if self.role == "in" else self.shape[1])


def network_keys(
    out_modes: Sequence[int],
    in_modes: Sequence[int],
    ranks: Sequence[int],
    seed: int,
    core_init: CoreInit,
    factor_init: FactorInit,
) -> tuple[FrozenKey, list[FrozenKey]]:
    """Build the keys of the frozen tensors of a network.

    Args:
        out_modes: Sizes of the out modes.
        in_modes: Sizes of the in modes.
        ranks: One rank per mode.
        seed: Seed of the adapter.
        core_init: Distribution of the core.
        factor_init: Distribution of every factor.

    Returns:
        The key of the core and the keys of the factors, in the order of the modes.
    """
    split = len(out_modes)
    core = FrozenKey(seed, "core", 0, tuple(ranks), split, core_init)
    factors = [
        FrozenKey(
            seed,
            "out" if mode < split else "in",
            mode if mode < split else mode - split,
            (ranks[mode], size),
            0,
            factor_init,
        )
        for mode, size in enumerate([*out_modes, *in_modes])
    ]
    return core, factors


@torch.inference_mode(False)
@torch.no_grad()
def draw(key: FrozenKey) -> Tensor:
    """Draw a frozen tensor.

    Args:
        key: Its key.

    Returns:
        A float32 tensor of shape `key.shape` on the CPU. It is never an inference tensor, which
        could not be used in training later.

    Raises:
        UserError: If the role has no such distribution.
    """
    scale = math.sqrt(key.variance)
    if key.distribution == "identity" and key.role != "core":
        return torch.eye(*key.shape, device="cpu", dtype=torch.float32)
    parts = draw_parts(key)
    if parts is not None:
        return reduce(torch.kron, parts).reshape(key.shape)
    if key.distribution == "orthogonal":
        return (_orthogonal(key.text, *_matrix_shape(key)) * scale).float().reshape(key.shape)
    samplers = {"normal": normal, "uniform": uniform, "rademacher": rademacher}
    if key.role == "core":
        samplers |= {"half_normal": half_normal, "constant": constant}
    if key.distribution not in samplers:
        raise UserError(
            f"{key.role} cannot be {key.distribution!r}: expected {', '.join(samplers)}, "
            f"orthogonal{'' if key.role == 'core' else ', identity'} or kronecker"
        )
    pieces = samplers[key.distribution](key.text, math.prod(key.shape))
    return torch.cat([(piece * scale).float() for piece in pieces]).reshape(key.shape)


def draw_parts(key: FrozenKey) -> list[Tensor] | None:
    """Draw the matrices whose Kronecker product a `kronecker` factor, or unfolded core, is.

    Args:
        key: Key of the tensor.

    Returns:
        Two matrices of the most balanced sizes with orthogonal rows or columns, or one where a
        size is prime, scaled to the variance of the key, in float32 on the CPU; null for any
        other distribution.

    Raises:
        UserError: If the rank of a factor is below the size.
    """
    shapes = part_shapes(key)
    if shapes is None:
        return None
    scale = key.variance ** (0.5 / len(shapes))
    return [
        (_orthogonal(f"{key.text}#part{index}", *shape) * scale).float()
        for index, shape in enumerate(shapes)
    ]


def part_shapes(key: FrozenKey) -> list[tuple[int, int]] | None:
    """Return the shapes of what `draw_parts` draws.

    Args:
        key: Key of the tensor.

    Returns:
        Rows and columns of each, or null where it draws nothing.

    Raises:
        UserError: If the rank of a factor is below the size.
    """
    if key.distribution != "kronecker":
        return None
    rows, columns = _matrix_shape(key)
    if key.role != "core" and rows != columns:
        raise UserError(
            f"a kronecker factor of a mode of {columns} has rank {rows}: expected {columns}; ranks "
            "below the sizes need another factor_init"
        )
    number = 2 if _is_composite(rows) and _is_composite(columns) else 1
    return list(zip(plan_modes(rows, number), plan_modes(columns, number), strict=True))


def _is_composite(size: int) -> bool:
    return any(size % divisor == 0 for divisor in range(2, math.isqrt(size) + 1))


def _matrix_shape(key: FrozenKey) -> tuple[int, int]:
    """Shape of a factor or of the unfolded core."""
    split = key.split or 1
    return math.prod(key.shape[:split]), math.prod(key.shape[split:])


def _orthogonal(name: str, rows: int, columns: int) -> Tensor:
    """Matrix with orthogonal rows or columns and entries of unit variance, in float64."""
    size = max(rows, columns)
    return kac_rotation(name, size)[:rows, :columns] * math.sqrt(size)


def digest(tensor: Tensor) -> str:
    """Return the SHA-256, in hexadecimal, over a tensor's float32 bytes (little-endian)."""
    values = tensor.detach().float().cpu().contiguous()
    return hashlib.sha256(values.numpy().tobytes()).hexdigest()


def fingerprint(digests: Mapping[str, str]) -> str:
    """Compute the fingerprint of a set of frozen tensors.

    Args:
        digests: Digest of each tensor as drawn, by the text of its key.

    Returns:
        SHA-256, in hexadecimal, over the sorted keys with their digests.
    """
    lines = "".join(f"{text} {digests[text]}\n" for text in sorted(digests))
    return hashlib.sha256(lines.encode()).hexdigest()


class FrozenTensor(nn.Module):
    """One frozen tensor, shared as a module and never in a state dict.

    A tensor that is registered in two layers becomes two after `.to()`; a module that is
    registered in two layers stays one.

    Args:
        key: Its key.
        device: Its device; nothing is drawn on the meta device.
        dtype: Dtype it is cast to after it was drawn in float32.
    """

    value: Tensor

    def __init__(self, key: FrozenKey, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self.key = key
        self.digest: str | None = None
        parts: Sequence[Tensor] | None
        if device.type == "meta":
            value = torch.empty(key.shape, device=device, dtype=dtype)
            shapes = part_shapes(key)
            parts = (
                None if shapes is None else [torch.empty(shape, device=device) for shape in shapes]
            )
        else:
            drawn = draw(key)
            self.digest = digest(drawn)
            value = drawn.to(device=device, dtype=dtype)
            parts = draw_parts(key)
        self.register_buffer("value", value, persistent=False)
        if key.distribution == "identity" and key.shape[0] == key.shape[1]:
            parts = ()
        self._num_parts = None if parts is None else len(parts)
        for index, part in enumerate(parts or ()):
            moved = part.to(device=device, dtype=dtype)
            self.register_buffer(f"part{index}", moved, persistent=False)

    def parts(self) -> tuple[Tensor, ...] | None:
        """Return the matrices whose Kronecker product the tensor is: `()` for the identity.

        Returns:
            Matrices to use instead of the tensor, which saves most of its products, or null if it
            has no such structure.
        """
        if self._num_parts is None:
            return None
        return tuple(getattr(self, f"part{index}") for index in range(self._num_parts))

    def replace(self, value: Tensor) -> None:
        """Replace the value by one from a file.

        Args:
            value: Of the same shape; copied, because a view of a mapped file may have any
                alignment, on which the last bits of products depend.
        """
        found = digest(value)
        if found != self.digest:
            self._num_parts = None
        self.value = value.to(self.value, copy=True)
        self.digest = found
