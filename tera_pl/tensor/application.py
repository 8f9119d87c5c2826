"""Apply a tensor network to activations, forward and backward, with as few products as possible.

Notation as in `tera_pl.tensor.network`; T is the number of tokens (rows of the input). Frozen core
and factors are saved by reference: they belong to the model. Saved for backward are: on the
factored path the projection `M x`, which layers that read the same input share, and the output of
the core; on the materialized path the input, and the matrix that was built if it is no larger than
the input; with `recompute`, only `M x` or the input. Diagonals keep their own dtype, float32: what
they multiply is rounded to the dtype of the products once, afterwards, as mixed-precision training
does with any weight, and their gradients are summed in float32.

The functions are stateless. Layers that share projections pass a `SharedProjections`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.amp.autocast_mode import is_autocast_available
from torch.nn import functional as F

from tera_pl.errors import UserError
from tera_pl.tensor.compute import (
    Compute,
    choose_compute,
    saves_delta_weight,
    weight_gradient_first,
)
from tera_pl.tensor.network import (
    TensorNetwork,
    build_delta_weight,
    kron_matmul,
    kron_matmul_left,
    kron_vectors,
    transposed,
)
from tera_pl.tensor.projection import (
    SharedProjections,
    find_projection,
    flatten_tokens,
    project,
    refuse_second_derivative,
    without_autocast,
)


def apply(
    network: TensorNetwork,
    inputs: Tensor,
    compute: Compute = "auto",
    projections: SharedProjections | None = None,
) -> Tensor:
    """Multiply activations by the weight update: `inputs @ DeltaW.T`.

    Args:
        network: The network; gradients flow to its scaling vectors.
        inputs: Of shape `(..., in_features)`; its dtype is the dtype of the products.
        compute: `factored` applies the factors, `materialized` builds the weight update, `auto`
            takes the cheaper path.
        projections: Projections that other layers share with this one.

    Returns:
        Tensor of shape `(..., out_features)` in the dtype of `inputs`.

    Raises:
        UserError: If the input does not end in `in_features`, or `compute` is unknown.
    """
    _check_input(network, inputs)
    left, right = network.diagonals()
    if _choose_path(network, inputs, compute, projections, fused=False) == "factored":
        projection = project(network, inputs, projections)
        outputs = _Factored.apply(projection, left, right, network)  # type: ignore[no-untyped-call]
    else:
        outputs = _Materialized.apply(  # type: ignore[no-untyped-call]
            inputs, left, right, network, projections
        )
    return outputs.reshape(*inputs.shape[:-1], network.out_features)


def apply_linear(
    network: TensorNetwork,
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    compute: Compute = "auto",
    projections: SharedProjections | None = None,
) -> Tensor:
    """Apply a frozen linear layer and its weight update: `inputs @ (weight + DeltaW).T + bias`.

    With a weight of 32 bits or more, the materialized path is one product with the sum. With 16
    bits the sum would drop every entry of the weight update below half a step of the weight's
    entry, so there the weight update is multiplied separately.

    Args:
        network: The network; gradients flow to its scaling vectors.
        inputs: Of shape `(..., in_features)`.
        weight: Frozen, of shape `(out_features, in_features)`.
        bias: Frozen, of shape `(out_features,)`, or null.
        compute: As in `apply`.
        projections: As in `apply`.

    Returns:
        Tensor of shape `(..., out_features)`, in the dtype that the frozen layer alone returns.
    """
    fused = weight.dtype == inputs.dtype and torch.finfo(weight.dtype).bits >= 32
    device = inputs.device.type
    if is_autocast_available(device) and torch.is_autocast_enabled(device):
        fused = False
    _check_input(network, inputs)
    if not fused or _choose_path(network, inputs, compute, projections, fused=True) == "factored":
        outputs = F.linear(inputs, weight, bias)
        return outputs + apply(network, inputs.to(outputs.dtype), compute, projections)
    summed = _FusedLinear.apply(  # type: ignore[no-untyped-call]
        inputs, *network.diagonals(), network, projections, weight, bias
    )
    return summed.reshape(*inputs.shape[:-1], network.out_features)


def apply_mixed(
    network: TensorNetwork,
    vectors: Sequence[Tensor],
    scalings: Tensor,
    inputs: Tensor,
    projections: SharedProjections | None = None,
) -> Tensor:
    """Multiply every example of a batch by a weight update of its own, with the products of one.

    The weight updates differ in their scaling vectors only: `y_b = L D_L[b] G_k D_R[b] M x_b`.

    Args:
        network: Supplies core and factors; its vectors and scaling are not used.
        vectors: One tensor of shape `(B, R_i)` per mode; gradients flow to them.
        scalings: Of shape `(B,)`; each multiplies the weight update of its example.
        inputs: Of shape `(B, ..., in_features)`; its dtype is the dtype of the products.
        projections: As in `apply`.

    Returns:
        Tensor of shape `(B, ..., out_features)` in the dtype of `inputs`.

    Raises:
        ValueError: If the input does not end in `in_features`.
    """
    _check_input(network, inputs)
    left = kron_vectors(vectors[: network.out_order]) * scalings.unsqueeze(1)
    right = kron_vectors(vectors[network.out_order :])
    projection = project(network, inputs, projections)
    cast = network.cast(inputs.dtype)

    def scale(rows: Tensor, diagonals: Tensor) -> Tensor:
        examples = rows.reshape(len(inputs), len(rows) // len(inputs), -1)
        return (examples * diagonals.unsqueeze(1)).to(inputs.dtype).reshape(rows.shape)

    with without_autocast(inputs):
        after_core = kron_matmul(scale(projection, right), transposed(cast.core_matrices))
        outputs = kron_matmul(scale(after_core, left), cast.out_factors)
    return outputs.reshape(*inputs.shape[:-1], network.out_features)


class _Factored(torch.autograd.Function):
    """`y = L (D_L u)` with `u = G_k (D_R z)` and the projection `z = M x`."""

    @staticmethod
    def forward(
        ctx: Any, projection: Tensor, left: Tensor, right: Tensor, network: TensorNetwork
    ) -> Tensor:
        ctx.network = network
        network = network.cast(projection.dtype)
        with without_autocast(projection):
            after_core = _apply_core(network, projection, right)
            saved = [] if network.recompute else [after_core]
            ctx.save_for_backward(projection, left, right, *saved)
            return kron_matmul((after_core * left).to(projection.dtype), network.out_factors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        projection, left, right, *saved = ctx.saved_tensors
        network, dtype = ctx.network.cast(projection.dtype), projection.dtype
        grad_left = grad_right = grad_projection = None
        with without_autocast(projection):
            grad = kron_matmul(grad.to(dtype), transposed(network.out_factors))
            if ctx.needs_input_grad[1]:
                (after_core,) = saved or [_apply_core(network, projection, right)]
                grad_left = _sum_product(grad, after_core, left)
            if ctx.needs_input_grad[0] or ctx.needs_input_grad[2]:
                grad = kron_matmul((grad * left).to(dtype), network.core_matrices)
                grad_right = _sum_product(grad, projection, right)
                grad_projection = (grad * right).to(dtype)
        return grad_projection, grad_left, grad_right, None


def _apply_core(network: TensorNetwork, projection: Tensor, right: Tensor) -> Tensor:
    """Compute `u = G_k (D_R z)` of every token."""
    return kron_matmul((projection * right).to(projection.dtype), transposed(network.core_matrices))


class _Materialized(torch.autograd.Function):
    """`y = x DeltaW^T`."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        left: Tensor,
        right: Tensor,
        network: TensorNetwork,
        projections: SharedProjections | None,
    ) -> Tensor:
        ctx.network, ctx.projections = network, projections
        with without_autocast(inputs):
            delta_weight = build_delta_weight(network.cast(inputs.dtype), left, right)
            _save(ctx, inputs, left, right, delta_weight)
            return flatten_tokens(inputs) @ delta_weight.T

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        inputs, left, right, *saved = ctx.saved_tensors
        with without_autocast(inputs):
            grad, grad_inputs = grad.to(inputs.dtype), None
            network = ctx.network.cast(inputs.dtype)
            grads = _diagonal_grads(ctx, network, inputs, grad, left, right)
            if ctx.needs_input_grad[0]:
                (delta_weight,) = saved or [build_delta_weight(network, left, right)]
                grad_inputs = (grad @ delta_weight).reshape(inputs.shape)
        return grad_inputs, *grads, None, None


class _FusedLinear(torch.autograd.Function):
    """`y = x (W_0 + DeltaW)^T`."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        left: Tensor,
        right: Tensor,
        network: TensorNetwork,
        projections: SharedProjections | None,
        weight: Tensor,
        bias: Tensor | None,
    ) -> Tensor:
        ctx.network, ctx.projections, ctx.weight = network, projections, weight
        summed = build_delta_weight(network.cast(inputs.dtype), left, right).add_(weight)
        _save(ctx, inputs, left, right, summed)
        # The same kernel and memory layout as the frozen layer's own: with a weight update of zero
        # the output is the same to the bit.
        return F.linear(flatten_tokens(inputs), summed, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        inputs, left, right, *saved = ctx.saved_tensors
        network, grad_inputs = ctx.network.cast(inputs.dtype), None
        grads = _diagonal_grads(ctx, network, inputs, grad, left, right)
        if ctx.needs_input_grad[0]:
            (summed,) = saved or [build_delta_weight(network, left, right).add_(ctx.weight)]
            grad_inputs = (grad @ summed).reshape(inputs.shape)
        return grad_inputs, *grads, None, None, None, None


def _save(ctx: Any, inputs: Tensor, left: Tensor, right: Tensor, matrix: Tensor) -> None:
    """Save for backward, with the matrix that was built if it is no larger than the input."""
    num_tokens = inputs.numel() // inputs.shape[-1]
    saves = not ctx.network.recompute and saves_delta_weight(len(matrix), num_tokens)
    ctx.save_for_backward(inputs, left, right, *([matrix] if saves else []))


def _diagonal_grads(
    ctx: Any, network: TensorNetwork, inputs: Tensor, grad: Tensor, left: Tensor, right: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of the diagonals, from `B = L^T (g^T x) M^T` and `H = B * G_k`."""
    if not (ctx.needs_input_grad[1] or ctx.needs_input_grad[2]):
        return None, None
    tokens = flatten_tokens(inputs)
    to_in, to_out = transposed(network.in_factors), transposed(network.out_factors)
    if weight_gradient_first(network.shape, len(tokens)):
        product = kron_matmul(grad.T @ tokens, to_in)
        product = kron_matmul_left(to_out, product)
    else:
        # By the network as it is: no other layer knows the matrices of a cast one.
        projection = project(ctx.network, inputs, ctx.projections)
        product = kron_matmul(grad, to_out).T @ projection
    weighted = product.to(left.dtype).mul_(network.unfolded_core())
    return weighted @ right, weighted.T @ left


def _sum_product(first: Tensor, second: Tensor, diagonal: Tensor) -> Tensor:
    """Sum of products over tokens, each product and the sum in the dtype of the diagonal."""
    return (first.to(diagonal.dtype) * second).sum(0)


def _check_input(network: TensorNetwork, inputs: Tensor) -> None:
    if inputs.shape[-1] != network.in_features:
        raise ValueError(
            f"input has shape {tuple(inputs.shape)}: expected {network.in_features} in the last "
            "dimension, the product of the in modes"
        )


def _choose_path(
    network: TensorNetwork,
    inputs: Tensor,
    compute: str,
    projections: SharedProjections | None,
    *,
    fused: bool,
) -> str:
    if compute == "auto":
        return choose_compute(
            network.shape,
            inputs.numel() // inputs.shape[-1],
            fused=fused,
            projected=find_projection(network, inputs, projections) is not None,
            recompute=network.recompute,
        )
    if compute not in {"factored", "materialized"}:
        raise UserError(f"compute is {compute!r}: expected auto, factored or materialized")
    return compute
