"""MoRA's linear maps: compress the input, apply one square matrix, decompress the result.

Both forms (Jiang et al., arXiv 2405.12130) are linear in the matrix and in the input, so each is
also given as the `(out_features, in_features)` matrix that it applies.
"""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from tera_pl.errors import UserError

Form = Literal["rotation", "sharing"]


def square_size(in_features: int, out_features: int, rank: int, form: Form) -> int:
    """Size of the square matrix with about as many parameters as LoRA's factors of a rank.

    Args:
        in_features: Size of the input.
        out_features: Size of the output.
        rank: Rank of LoRA.
        form: Form of compression.

    Returns:
        floor(sqrt((in_features + out_features) rank)) as in the paper's section 4.2, or one less
        for `rotation`, which rotates pairs and needs an even size.

    Raises:
        UserError: If that size is zero.
    """
    size = math.isqrt((in_features + out_features) * rank)
    if form == "rotation":
        size -= size % 2
    if size < 1:
        raise UserError(
            f"r = {rank} leaves no matrix for {in_features} inputs and {out_features} outputs "
            f"in the {form} form: give a larger r, or r_hat"
        )
    return size


def apply(matrix: Tensor, x: Tensor, out_features: int, form: Form) -> Tensor:
    """Apply the map to inputs, without forming its matrix.

    Args:
        matrix: The square matrix, `(r_hat, r_hat)`.
        x: Inputs `(..., in_features)` in the matrix's dtype.
        out_features: Size of the outputs.
        form: `sharing` (Eq. 6) adds chunks of the input and repeats the output; `rotation` (Eq. 9)
            applies the matrix to each chunk, rotated by the angles of its position.

    Returns:
        Outputs `(..., out_features)`.
    """
    r_hat = len(matrix)
    used = _num_chunks(r_hat, x.shape[-1], out_features, form)
    chunks = _cyclic(x, used * r_hat).reshape(*x.shape[:-1], used, r_hat)
    if form == "sharing":
        return _cyclic(F.linear(chunks.sum(-2), matrix), out_features)
    turned = _rotate(chunks, _angles(used, chunks))
    return _cyclic(F.linear(turned, matrix).flatten(-2), out_features)


def weight(matrix: Tensor, in_features: int, out_features: int, form: Form) -> Tensor:
    """Form the matrix of the map.

    Args:
        matrix: The square matrix, `(r_hat, r_hat)`.
        in_features: Size of the input.
        out_features: Size of the output.
        form: As for `apply`.

    Returns:
        The matrix, `(out_features, in_features)`.
    """
    r_hat = len(matrix)
    used = _num_chunks(r_hat, in_features, out_features, form)
    if form == "sharing":
        padded = matrix.repeat(1, used)
    else:
        # The rotation R_t of the input is the inverse rotation of every row: (M R_t)_a = R_-t M_a.
        rows = matrix[:, None].expand(r_hat, used, r_hat)
        blocks = _rotate(rows, -_angles(used, matrix))  # (row, chunk, column)
        diagonal = torch.diag_embed(blocks.transpose(1, 2))  # (row, column, chunk, chunk)
        padded = diagonal.permute(2, 0, 3, 1).reshape(used * r_hat, used * r_hat)
    columns = torch.arange(used * r_hat, device=matrix.device) % in_features
    folded = matrix.new_zeros(len(padded), in_features).index_add(1, columns, padded)
    return folded[torch.arange(out_features, device=matrix.device) % len(folded)]


def _num_chunks(r_hat: int, in_features: int, out_features: int, form: Form) -> int:
    """Number of chunks of the input, padded with its own beginning, that reach the output."""
    chunks = math.ceil(in_features / r_hat)
    return chunks if form == "sharing" else min(chunks, math.ceil(out_features / r_hat))


def _cyclic(x: Tensor, size: int) -> Tensor:
    """Cut or repeat the last dimension to a size."""
    repeats, rest = divmod(size, x.shape[-1])
    if repeats == 0:
        return x[..., :rest]
    if (repeats, rest) == (1, 0):
        return x
    return torch.cat([x] * repeats + [x[..., :rest]], dim=-1)


def _angles(num_chunks: int, like: Tensor) -> Tensor:
    """Angle t 10000^(-2 i / r_hat) of pair i in chunk t, `(num_chunks, r_hat / 2)`, in radians."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    r_hat = like.shape[-1]
    exponents = torch.arange(0, r_hat, 2, device=like.device, dtype=dtype) / r_hat
    chunks = torch.arange(num_chunks, device=like.device, dtype=dtype)
    return chunks[:, None] * 10000.0**-exponents


def _rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate the pairs (i, i + r_hat / 2) of the last dimension."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
