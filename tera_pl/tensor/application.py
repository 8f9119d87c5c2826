"""Apply a tensor network to activations, forward and backward, with as few products as possible.

Notation as in `tera_pl.tensor.network`; T is the number of rows (tokens). Frozen tensors are held
by reference: they belong to the model. For backward are saved: through the factors `M x`, which
layers that read the same input share, and the core's product; through the update the input, and
what was built if it is no larger than that; with `recompute`, `M x` or the input alone. Diagonals
stay in their own type, float32: what they multiply is rounded to the type of the products once,
afterwards, as mixed-precision training does with any weight, and their gradients are summed in
float32.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.amp.autocast_mode import is_autocast_available
from torch.nn import functional as F
from torch.utils.weak import WeakTensorKeyDictionary

from tera_pl.errors import UserError
from tera_pl.tensor.compute import (
    Compute,
    choose_compute,
    keeps_delta_weight,
    weight_gradient_first,
)
from tera_pl.tensor.network import (
    Matrices,
    TensorNetwork,
    build_delta_weight,
    kron_matmul,
    kron_matmul_left,
    kron_vectors,
    transposed,
)


def apply(network: TensorNetwork, inputs: Tensor, compute: Compute = "auto") -> Tensor:
    """Multiply activations by the update: `inputs @ DeltaW.T`.

    Args:
        network: The network; gradients flow to its vectors.
        inputs: Of shape `(..., in_features)`; its type is the type of the products.
        compute: `factored` goes through the factors, `materialized` builds the update, `auto`
            takes what costs less.

    Returns:
        Tensor of shape `(..., out_features)` in the type of `inputs`.

    Raises:
        UserError: If the input does not end in `in_features`, or `compute` is unknown.
    """
    _check(network, inputs)
    if _way(network, inputs, compute, fused=False) == "factored":
        inner = _project(network, inputs)
        outputs = _Factored.apply(inner, *network.diagonals(), network)  # type: ignore[no-untyped-call]
    else:
        outputs = _Materialized.apply(inputs, *network.diagonals(), network)  # type: ignore[no-untyped-call]
    return outputs.reshape(*inputs.shape[:-1], network.out_features)


def apply_linear(
    network: TensorNetwork,
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    compute: Compute = "auto",
) -> Tensor:
    """Apply a frozen linear layer and its update: `inputs @ (weight + DeltaW).T + bias`.

    With a weight of 32 bits or more, the materialized way is one product with the sum. With 16
    bits the sum would drop every entry of the update below half a step of the weight's entry,
    so there the update is multiplied on its own.

    Args:
        network: The network; gradients flow to its vectors.
        inputs: Of shape `(..., in_features)`.
        weight: Frozen, of shape `(out_features, in_features)`.
        bias: Frozen, of shape `(out_features,)`, or none.
        compute: As in `apply`.

    Returns:
        Tensor of shape `(..., out_features)`, in the type that the frozen layer alone returns.
    """
    fused = weight.dtype == inputs.dtype and torch.finfo(weight.dtype).bits >= 32
    device = inputs.device.type
    if is_autocast_available(device) and torch.is_autocast_enabled(device):
        fused = False
    _check(network, inputs)
    if not fused or _way(network, inputs, compute, fused=True) == "factored":
        outputs = F.linear(inputs, weight, bias)
        return outputs + apply(network, inputs.to(outputs.dtype), compute)
    summed = _FusedLinear.apply(  # type: ignore[no-untyped-call]
        inputs, *network.diagonals(), network, weight, bias
    )
    return summed.reshape(*inputs.shape[:-1], network.out_features)


def apply_mixed(
    network: TensorNetwork, vectors: Sequence[Tensor], scalings: Tensor, inputs: Tensor
) -> Tensor:
    """Multiply every example of a batch by an update of its own, with the products of one.

    The updates differ in their vectors only: `y_b = L D_L[b] G_k D_R[b] M x_b`.

    Args:
        network: Supplies core and factors; its vectors and scaling play no part.
        vectors: One tensor of shape `(B, R_i)` per mode; gradients flow to them.
        scalings: Of shape `(B,)`; each multiplies the update of its example.
        inputs: Of shape `(B, ..., in_features)`; its type is the type of the products.

    Returns:
        Tensor of shape `(B, ..., out_features)` in the type of `inputs`.

    Raises:
        ValueError: If the input does not end in `in_features`.
    """
    _check(network, inputs)
    left = kron_vectors(vectors[: network.out_order]) * scalings.unsqueeze(1)
    right = kron_vectors(vectors[network.out_order :])
    inner, plain = _project(network, inputs), network.cast(inputs.dtype)

    def scale(rows: Tensor, diagonals: Tensor) -> Tensor:
        examples = rows.reshape(len(inputs), len(rows) // len(inputs), -1)
        return (examples * diagonals.unsqueeze(1)).to(inputs.dtype).reshape(rows.shape)

    with _no_autocast(inputs):
        after = kron_matmul(scale(inner, right), transposed(plain.core_matrices))
        outputs = kron_matmul(scale(after, left), plain.out_factors)
    return outputs.reshape(*inputs.shape[:-1], network.out_features)


# `M x` by input, for as long as the input lives: q, k and v read the same and share their factors.
# A change in place is seen, unless it goes past autograd: by `x.data` or numpy's view of it.
_projected: Any = WeakTensorKeyDictionary()


def _project(network: TensorNetwork, inputs: Tensor) -> Tensor:
    """Give `x M^T`, of shape `(T, prod R_in)`, computed once for an input and its factors."""
    matrices = network.in_factors
    if all(isinstance(matrix, int) for matrix in matrices):
        return _rows(inputs)
    inner = _find_projection(network, inputs)
    if inner is None:
        inner = _Projection.apply(inputs, network)  # type: ignore[no-untyped-call]
        # A leaf would be kept alive by the graph of its own result.
        if not inputs.is_inference() and not (inputs.is_leaf and inputs.requires_grad):
            state = _state(inputs)
            others = [some for some in _projected.get(inputs, ()) if some[0][0] == state[0]]
            _projected[inputs] = [*others, (state, matrices, inner)]
    return inner


def _find_projection(network: TensorNetwork, inputs: Tensor) -> Tensor | None:
    """Give `x M^T` if a layer has computed it for this input and these factors."""
    for state, matrices, inner in _projected.get(inputs, ()):
        if state == _state(inputs) and _same(matrices, network.in_factors):
            return inner
    return None


def _state(inputs: Tensor) -> tuple[int, bool, bool, bool]:
    # An input may change in place, or come to need a gradient; a CUDA graph that is being captured
    # must not use what was computed before it.
    capturing = inputs.is_cuda and torch.cuda.is_current_stream_capturing()
    return inputs._version, inputs.requires_grad, torch.is_grad_enabled(), capturing


def _same(first: Matrices, second: Matrices) -> bool:
    """Whether matrices are the same objects; integers, which are small, too."""
    return len(first) == len(second) and all(
        a is b or (isinstance(a, int) and a == b) for a, b in zip(first, second, strict=True)
    )


class _Projection(torch.autograd.Function):
    """`z = M x`. Nothing is saved, so that the result can serve several backward passes."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, network: TensorNetwork) -> Tensor:
        ctx.network, ctx.shape = network, inputs.shape
        with _no_autocast(inputs):
            factors = network.cast(inputs.dtype).in_factors
            return kron_matmul(_rows(inputs), transposed(factors))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        _refuse_second_derivative()
        with _no_autocast(grad):
            rows = kron_matmul(grad, ctx.network.cast(grad.dtype).in_factors)
        return rows.reshape(ctx.shape), None


class _Factored(torch.autograd.Function):
    """`y = L (D_L u)` with `u = G_k (D_R z)`."""

    @staticmethod
    def forward(
        ctx: Any, inner: Tensor, left: Tensor, right: Tensor, network: TensorNetwork
    ) -> Tensor:
        ctx.network = network
        network = network.cast(inner.dtype)
        with _no_autocast(inner):
            after = _after_core(network, inner, right)
            kept = [] if network.recompute else [after]
            ctx.save_for_backward(inner, left, right, *kept)
            return kron_matmul((after * left).to(inner.dtype), network.out_factors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        _refuse_second_derivative()
        inner, left, right, *kept = ctx.saved_tensors
        network, dtype = ctx.network.cast(inner.dtype), inner.dtype
        grad_left = grad_right = grad_inner = None
        with _no_autocast(inner):
            grad = kron_matmul(grad.to(dtype), transposed(network.out_factors))
            if ctx.needs_input_grad[1]:
                (after,) = kept or [_after_core(network, inner, right)]
                grad_left = _sum_product(grad, after, left)
            if ctx.needs_input_grad[0] or ctx.needs_input_grad[2]:
                grad = kron_matmul((grad * left).to(dtype), network.core_matrices)
                grad_right = _sum_product(grad, inner, right)
                grad_inner = (grad * right).to(dtype)
        return grad_inner, grad_left, grad_right, None


def _after_core(network: TensorNetwork, inner: Tensor, right: Tensor) -> Tensor:
    """Give `u = G_k (D_R z)` of every row."""
    return kron_matmul((inner * right).to(inner.dtype), transposed(network.core_matrices))


class _Materialized(torch.autograd.Function):
    """`y = x DeltaW^T`."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, left: Tensor, right: Tensor, network: TensorNetwork
    ) -> Tensor:
        ctx.network, rows = network, _rows(inputs)
        with _no_autocast(inputs):
            update = build_delta_weight(network.cast(inputs.dtype), left, right)
            _save(ctx, inputs, left, right, update)
            return rows @ update.T

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        _refuse_second_derivative()
        inputs, left, right, *kept = ctx.saved_tensors
        with _no_autocast(inputs):
            grad, grad_inputs = grad.to(inputs.dtype), None
            network = ctx.network.cast(inputs.dtype)
            grads = _diagonal_grads(ctx, network, inputs, grad, left, right)
            if ctx.needs_input_grad[0]:
                (update,) = kept or [build_delta_weight(network, left, right)]
                grad_inputs = (grad @ update).reshape(inputs.shape)
        return grad_inputs, *grads, None


class _FusedLinear(torch.autograd.Function):
    """`y = x (W_0 + DeltaW)^T`."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        left: Tensor,
        right: Tensor,
        network: TensorNetwork,
        weight: Tensor,
        bias: Tensor | None,
    ) -> Tensor:
        ctx.network, ctx.weight = network, weight
        summed = build_delta_weight(network.cast(inputs.dtype), left, right).add_(weight)
        _save(ctx, inputs, left, right, summed)
        # The same kernel and memory layout as the frozen layer's own: with an update of zero the
        # output is the same to the bit.
        return F.linear(_rows(inputs), summed, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        _refuse_second_derivative()
        inputs, left, right, *kept = ctx.saved_tensors
        network, grad_inputs = ctx.network.cast(inputs.dtype), None
        grads = _diagonal_grads(ctx, network, inputs, grad, left, right)
        if ctx.needs_input_grad[0]:
            (summed,) = kept or [build_delta_weight(network, left, right).add_(ctx.weight)]
            grad_inputs = (grad @ summed).reshape(inputs.shape)
        return grad_inputs, *grads, None, None, None


def _save(ctx: Any, inputs: Tensor, left: Tensor, right: Tensor, matrix: Tensor) -> None:
    """Save for backward, with a matrix that was built if it takes no more than the input."""
    keeps = not ctx.network.recompute and keeps_delta_weight(len(matrix), len(_rows(inputs)))
    kept = [matrix] if keeps else []
    ctx.save_for_backward(inputs, left, right, *kept)


def _diagonal_grads(
    ctx: Any, network: TensorNetwork, inputs: Tensor, grad: Tensor, left: Tensor, right: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of the diagonals, from `B = L^T (g^T x) M^T` and `H = B * G_k`."""
    if not (ctx.needs_input_grad[1] or ctx.needs_input_grad[2]):
        return None, None
    rows = _rows(inputs)
    to_in, to_out = transposed(network.in_factors), transposed(network.out_factors)
    if weight_gradient_first(network.shape, len(rows)):
        product = kron_matmul(grad.T @ rows, to_in)
        product = kron_matmul_left(to_out, product)
    else:
        # By the network as it is: a cast one has matrices of its own, which no other layer knows.
        product = kron_matmul(grad, to_out).T @ _project(ctx.network, inputs)
    weighted = product.to(left.dtype).mul_(network.unfolded_core())
    return weighted @ right, weighted.T @ left


def _refuse_second_derivative() -> None:
    # `once_differentiable` would let some second derivatives pass as zero.
    if torch.is_grad_enabled():
        raise RuntimeError(
            "the fast paths of a tensor network have no second derivative: multiply with "
            "contract(network), which has all of them"
        )


def _sum_product(first: Tensor, second: Tensor, like: Tensor) -> Tensor:
    """Sum of products over rows, each product and the sum in the type of the diagonal."""
    return (first.to(like.dtype) * second).sum(0)


def _check(network: TensorNetwork, inputs: Tensor) -> None:
    if inputs.shape[-1] != network.in_features:
        raise ValueError(
            f"input has shape {tuple(inputs.shape)}: expected {network.in_features} in the last "
            "dimension, the product of the in modes"
        )


def _rows(inputs: Tensor) -> Tensor:
    return inputs.reshape(-1, inputs.shape[-1])


def _way(network: TensorNetwork, inputs: Tensor, compute: str, *, fused: bool) -> str:
    if compute == "auto":
        return choose_compute(
            network.shape,
            inputs.numel() // inputs.shape[-1],
            fused=fused,
            projected=_find_projection(network, inputs) is not None,
            recompute=network.recompute,
        )
    if compute not in {"factored", "materialized"}:
        raise UserError(f"compute is {compute!r}: expected auto, factored or materialized")
    return compute


def _no_autocast(rows: Tensor) -> AbstractContextManager[Any]:
    # The type of the products is decided before; inside, autocast must not change it again.
    device = rows.device.type
    # The meta device has none; entering the context costs more than some of the products.
    if is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()
