"""The projection `M x` of an input, which layers with the same in factors share."""

import weakref
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.amp.autocast_mode import is_autocast_available

from tera_pl.private_api.torch import inplace_version
from tera_pl.tensor.network import Matrices, TensorNetwork, kron_matmul, transposed

_Mode = tuple[int, bool, bool, bool]
_Entries = list[tuple[_Mode, Matrices, Tensor]]


class SharedProjections:
    """Projections of one input at a time, computed once for all layers that read it.

    The layers of a model share an instance and pass it to `tera_pl.tensor.apply`: query, key and
    value projections read the same input through the same in factors. A projection is found for
    the same input object, unchanged in place (unless past autograd, by `x.data`), in the same
    autograd mode. It is dropped with its input, or as soon as another input is projected. Copies
    and pickles start empty. Threads may share an instance.
    """

    def __init__(self) -> None:
        # Input and projections are one attribute, so that a thread never sees those of another.
        self._current: tuple[weakref.ref[Tensor], _Entries] | None = None

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(self), ()

    def find(self, network: TensorNetwork, inputs: Tensor) -> Tensor | None:
        """Return the projection of an input by the in factors of a network, if it is here.

        Args:
            network: The network.
            inputs: Of shape `(..., in_features)`.

        Returns:
            `x M^T` of shape `(T, prod R_in)`, or null.
        """
        entries = self._entries_of(inputs)
        if not entries:
            return None
        mode = _autograd_mode(inputs)
        for known, matrices, projection in entries:
            if known == mode and _are_same(matrices, network.in_factors):
                return projection
        return None

    def add(self, network: TensorNetwork, inputs: Tensor, projection: Tensor) -> None:
        """Keep a projection as long as its input lives and no other input is projected.

        Args:
            network: The network whose in factors were applied.
            inputs: Of shape `(..., in_features)`.
            projection: `x M^T` of shape `(T, prod R_in)`.
        """
        # An inference tensor has no version; a leaf would be kept alive by its projection's graph.
        if inputs.is_inference() or (inputs.is_leaf and inputs.requires_grad):
            return
        entries = self._entries_of(inputs)
        if entries is None:
            fresh: _Entries = []
            self._current = weakref.ref(inputs, lambda _: fresh.clear()), fresh
            entries = fresh
        mode = _autograd_mode(inputs)
        entries[:] = [entry for entry in entries if entry[0][0] == mode[0]]
        entries.append((mode, network.in_factors, projection))

    def _entries_of(self, inputs: Tensor) -> _Entries | None:
        current = self._current
        return None if current is None or current[0]() is not inputs else current[1]


def _autograd_mode(inputs: Tensor) -> _Mode:
    # A CUDA graph that is being captured must not use what was computed before it.
    capturing = inputs.is_cuda and torch.cuda.is_current_stream_capturing()
    return inplace_version(inputs), inputs.requires_grad, torch.is_grad_enabled(), capturing


def _are_same(first: Matrices, second: Matrices) -> bool:
    """Check that matrices are the same objects; sizes of identities are compared by value."""
    return len(first) == len(second) and all(
        a is b or (isinstance(a, int) and a == b) for a, b in zip(first, second, strict=True)
    )


def find_projection(
    network: TensorNetwork, inputs: Tensor, projections: SharedProjections | None
) -> Tensor | None:
    """Return the projection of an input if a layer has computed it already.

    Args:
        network: The network whose in factors project.
        inputs: Of shape `(..., in_features)`.
        projections: Where to look, if not null; not used by `torch.compile`, which merges equal
            products itself.

    Returns:
        `x M^T` of shape `(T, prod R_in)`, or null.
    """
    if projections is None or torch.compiler.is_compiling():
        return None
    return projections.find(network, inputs)


def project(
    network: TensorNetwork, inputs: Tensor, projections: SharedProjections | None = None
) -> Tensor:
    """Project an input: `x M^T`, once for all layers that share it.

    Args:
        network: The network whose in factors project; differentiable in the input.
        inputs: Of shape `(..., in_features)`.
        projections: As in `find_projection`.

    Returns:
        Tensor of shape `(T, prod R_in)`.
    """
    if all(isinstance(matrix, int) for matrix in network.in_factors):
        return flatten_tokens(inputs)
    projection = find_projection(network, inputs, projections)
    if projection is None:
        projection = _Projection.apply(inputs, network)  # type: ignore[no-untyped-call]
        if projections is not None and not torch.compiler.is_compiling():
            projections.add(network, inputs, projection)
    return projection


class _Projection(torch.autograd.Function):
    """`z = M x`. Nothing is saved, so that the result can serve several backward passes."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, network: TensorNetwork) -> Tensor:
        ctx.network, ctx.shape = network, inputs.shape
        with without_autocast(inputs):
            factors = network.cast(inputs.dtype).in_factors
            return kron_matmul(flatten_tokens(inputs), transposed(factors))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        with without_autocast(grad):
            rows = kron_matmul(grad, ctx.network.cast(grad.dtype).in_factors)
        return rows.reshape(ctx.shape), None


def flatten_tokens(inputs: Tensor) -> Tensor:
    """Flatten the leading dimensions, `(..., features) -> (T, features)`."""
    return inputs.reshape(-1, inputs.shape[-1])


def refuse_second_derivative() -> None:
    """Raise if the backward pass is to be differentiated.

    Raises:
        RuntimeError: If gradients are enabled.
    """
    # `once_differentiable` would let some second derivatives pass as zero.
    if torch.is_grad_enabled():
        raise RuntimeError(
            "the fast paths of a tensor network have no second derivative: multiply with "
            "contract(network), which has all of them"
        )


def without_autocast(tensor: Tensor) -> AbstractContextManager[Any]:
    """Disable autocast on a tensor's device: the dtype of the products is decided before."""
    device = tensor.device.type
    # The meta device has no autocast; entering the context costs more than some products.
    if is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()
