"""Apply a tensor network to activations, forward and backward, keeping nothing but the input.

Notation as in `tera_pl.tensor.network`; T is the number of rows (tokens). Frozen tensors are held
by reference: they belong to the model. For backward only the input and the two diagonals are
saved; all else is computed again. Diagonals stay in their own type, float32: what they multiply is
rounded to the type of the products once, afterwards, as mixed-precision training does with any
weight, and their gradients are summed in float32.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.amp.autocast_mode import is_autocast_available
from torch.nn import functional as F

from tera_pl.tensor.compute import Compute, choose_compute, core_gradient_costs
from tera_pl.tensor.network import TensorNetwork, build_update, kron_matmul, transposed


def apply(network: TensorNetwork, inputs: Tensor, compute: Compute = "auto") -> Tensor:
    """Multiply activations by the update: `inputs @ DeltaW.T`.

    Args:
        network: The network; gradients flow to its vectors.
        inputs: Of shape `(..., in_features)`; its type is the type of the products.
        compute: `factored` goes through the factors, `materialised` builds the update, `auto`
            takes what costs less.

    Returns:
        Tensor of shape `(..., out_features)` in the type of `inputs`.

    Raises:
        ValueError: If the input does not end in `in_features`, or `compute` is unknown.
    """
    rows = _rows(network, inputs)
    way = _way(network, rows, compute, fused=False)
    function = _Factored if way == "factored" else _Materialised
    outputs = function.apply(rows, *network.diagonals(), network)  # type: ignore[no-untyped-call]
    return outputs.reshape(*inputs.shape[:-1], network.out_features)


def apply_linear(
    network: TensorNetwork,
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    compute: Compute = "auto",
) -> Tensor:
    """Apply a frozen linear layer and its update: `inputs @ (weight + DeltaW).T + bias`.

    With a weight of 32 bits or more, the materialised way is one product with the sum. With 16
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
    rows = _rows(network, inputs)
    if not fused or _way(network, rows, compute, fused=True) == "factored":
        outputs = F.linear(inputs, weight, bias)
        return outputs + apply(network, inputs.to(outputs.dtype), compute)
    summed = _FusedLinear.apply(  # type: ignore[no-untyped-call]
        rows, *network.diagonals(), network, weight, bias
    )
    return summed.reshape(*inputs.shape[:-1], network.out_features)


class _Factored(torch.autograd.Function):
    """`y = L (D_L (G_k (D_R (M x))))`."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, left: Tensor, right: Tensor, network: TensorNetwork
    ) -> Tensor:
        ctx.save_for_backward(rows, left, right)
        ctx.network = network
        network = network.cast(rows.dtype)
        with _no_autocast(rows):
            inner = kron_matmul(rows, transposed(network.in_factors))
            inner = (inner * right).to(rows.dtype) @ network.unfolded_core().T
            return kron_matmul((inner * left).to(rows.dtype), network.out_factors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        _refuse_second_derivative()
        rows, left, right = ctx.saved_tensors
        network, dtype = ctx.network.cast(rows.dtype), rows.dtype
        core = network.unfolded_core()
        grad_left = grad_right = grad_rows = None
        with _no_autocast(rows):
            after = kron_matmul(grad.to(dtype), transposed(network.out_factors))
            before = (after * left).to(dtype) @ core
            if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
                inner = kron_matmul(rows, transposed(network.in_factors))
                grad_right = _sum_product(before, inner, right)
                grad_left = _sum_product(after, (inner * right).to(dtype) @ core.T, left)
            if ctx.needs_input_grad[0]:
                grad_rows = kron_matmul((before * right).to(dtype), network.in_factors)
        return grad_rows, grad_left, grad_right, None


class _Materialised(torch.autograd.Function):
    """`y = x DeltaW^T`, with the update built anew whenever it is needed."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, left: Tensor, right: Tensor, network: TensorNetwork
    ) -> Tensor:
        ctx.save_for_backward(rows, left, right)
        ctx.network = network
        with _no_autocast(rows):
            return rows @ build_update(network.cast(rows.dtype), left, right).T

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        _refuse_second_derivative()
        rows, left, right = ctx.saved_tensors
        with _no_autocast(rows):
            grad, grad_rows = grad.to(rows.dtype), None
            network = ctx.network.cast(rows.dtype)
            grads = _diagonal_grads(ctx, network, rows, grad, left, right)
            if ctx.needs_input_grad[0]:
                grad_rows = grad @ build_update(network, left, right)
        return grad_rows, *grads, None


class _FusedLinear(torch.autograd.Function):
    """`y = x (W_0 + DeltaW)^T`, with the sum built anew whenever it is needed."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        left: Tensor,
        right: Tensor,
        network: TensorNetwork,
        weight: Tensor,
        bias: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(rows, left, right)
        ctx.network, ctx.weight = network, weight
        # The same kernel and memory layout as the frozen layer's own: with an update of zero the
        # output is the same to the bit.
        return F.linear(rows, weight + build_update(network.cast(rows.dtype), left, right), bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        _refuse_second_derivative()
        rows, left, right = ctx.saved_tensors
        network, grad_rows = ctx.network.cast(rows.dtype), None
        grads = _diagonal_grads(ctx, network, rows, grad, left, right)
        if ctx.needs_input_grad[0]:
            grad_rows = grad @ (ctx.weight + build_update(network, left, right))
        return grad_rows, *grads, None, None, None


def _diagonal_grads(
    ctx: Any, network: TensorNetwork, rows: Tensor, grad: Tensor, left: Tensor, right: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of the diagonals, from `B = L^T (g^T x) M^T` and `H = B * G_k`."""
    if not (ctx.needs_input_grad[1] or ctx.needs_input_grad[2]):
        return None, None
    to_in, to_out = transposed(network.in_factors), transposed(network.out_factors)
    modes, ranks, out_order, identity = network.product_shape()
    weight_first, rows_first = core_gradient_costs(modes, ranks, out_order, len(rows), identity)
    if weight_first < rows_first:
        product = kron_matmul(grad.T @ rows, to_in)
        product = kron_matmul(product.T, to_out).T
    else:
        product = kron_matmul(grad, to_out).T @ kron_matmul(rows, to_in)
    weighted = product.to(left.dtype) * network.unfolded_core().to(left.dtype)
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


def _rows(network: TensorNetwork, inputs: Tensor) -> Tensor:
    if inputs.shape[-1] != network.in_features:
        raise ValueError(
            f"input has shape {tuple(inputs.shape)}: expected {network.in_features} in the last "
            "dimension, the product of the in modes"
        )
    return inputs.reshape(-1, network.in_features)


def _way(network: TensorNetwork, rows: Tensor, compute: str, *, fused: bool) -> str:
    if compute == "auto":
        modes, ranks, out_order, identity = network.product_shape()
        return choose_compute(modes, ranks, out_order, len(rows), fused=fused, identity=identity)
    if compute not in {"factored", "materialised"}:
        raise ValueError(f"compute is {compute!r}: expected auto, factored or materialised")
    return compute


def _no_autocast(rows: Tensor) -> AbstractContextManager[Any]:
    # The type of the products is decided before; inside, autocast must not change it again.
    device = rows.device.type
    if is_autocast_available(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()  # the meta device has none
