"""Tensorize a dimension: split it into modes."""

import math
from collections.abc import Sequence

from tera_pl.errors import UserError


def plan_modes(size: int, modes: int | Sequence[int]) -> tuple[int, ...]:
    """Split a dimension into modes, `size = prod(modes)`.

    Args:
        size: The dimension, at least 1.
        modes: Number of modes, as equal as the divisors of `size` allow (smallest sum, then in
            ascending order; 1 does not split the dimension), or the sizes themselves.

    Returns:
        The mode sizes, each at least 2 unless there is only one.

    Raises:
        UserError: If there is no such tensorization, naming the size.

    Example:
        >>> plan_modes(4096, 3)
        (16, 16, 16)
        >>> plan_modes(3072, 2)
        (48, 64)
    """
    if isinstance(modes, int):
        return _balanced(size, modes)
    sizes = tuple(modes)
    if not sizes or math.prod(sizes) != size or (len(sizes) > 1 and min(sizes) < 2):
        raise UserError(
            f"modes {list(sizes)} do not make a dimension of size {size}: expected sizes of at "
            f"least 2 whose product is {size}"
        )
    return sizes


def _balanced(size: int, num_modes: int) -> tuple[int, ...]:
    if num_modes < 1:
        raise UserError(f"cannot split size {size} into {num_modes} modes: expected at least 1")
    best = _best_split(size, num_modes, 2) if num_modes > 1 else (size,)
    if best is None:
        raise UserError(
            f"cannot split size {size} into {num_modes} modes of at least 2: it has only "
            f"{_num_prime_factors(size)} prime factors; use fewer modes, or 1 to leave it unsplit"
        )
    return best


def _best_split(size: int, num_modes: int, smallest: int) -> tuple[int, ...] | None:
    """Ascending split with the smallest sum: the most balanced one, since the product is fixed."""
    if num_modes == 1:
        return (size,) if size >= smallest else None
    best = None
    for first in range(smallest, round(size ** (1 / num_modes)) + 2):
        if size % first:
            continue
        rest = _best_split(size // first, num_modes - 1, first)
        if rest is not None and (best is None or first + sum(rest) < sum(best)):
            best = (first, *rest)
    return best


def _num_prime_factors(size: int) -> int:
    count, divisor = 0, 2
    while divisor * divisor <= size:
        while size % divisor == 0:
            size, count = size // divisor, count + 1
        divisor += 1
    return count + (size > 1)
