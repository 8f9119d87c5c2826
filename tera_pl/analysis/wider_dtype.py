"""Evaluate a model in a wider dtype than its own, and bound the effect of rounding on outputs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn

# How many times the rounding noise of the adapted model the merged model may differ. See
# `largest_allowed_error`; the ratios found are in docs/peft_methods.md.
ALLOWED_NOISE = 4.0


def largest_allowed_error(
    adapted: Sequence[Tensor], exact: Sequence[Tensor], dtype: torch.dtype
) -> float:
    """Bound the difference to the exact outputs that rounding explains in a merged model.

    Adapted and merged model are the same function in exact arithmetic. The distance of the adapted
    model in the dtype of the base to itself in a wider dtype is the rounding noise of this model on
    these inputs. The merged model rounds its activations as the adapted one does, and its weights
    once, by half a step each, which changes the output of a layer as much as rounding its input.
    With two sources of equal size, its noise is about sqrt(2) times that of the adapted model, and
    the largest of many differences scatters. It may be `ALLOWED_NOISE` times as large. Noise below
    one step of the dtype at the largest output counts as one step: a small model may round nothing.

    Args:
        adapted: Outputs of the adapted model.
        exact: The same, evaluated in a wider dtype.
        dtype: Dtype of the base.

    Returns:
        The largest allowed absolute difference between outputs of the merged model and `exact`.
    """
    step = torch.finfo(dtype).eps * max(values.abs().max().item() for values in exact)
    return ALLOWED_NOISE * max(largest_difference(adapted, exact), step)


def largest_difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Return the largest absolute difference of any two entries, NaN if there is one."""
    pairs = zip(found, expected, strict=True)
    return torch.stack([(a.double() - b.double()).abs().max() for a, b in pairs]).max().item()


@contextmanager
def widened(model: nn.Module) -> Iterator[None]:
    """Let a model compute in float32 if its parameters have fewer bits, else in float64.

    A module has its parameters in the wider dtype only while it computes: in addition to the model
    at most its largest module, with its adapter, is in memory.

    Args:
        model: A model, adapted or not; restored afterwards.

    Yields:
        Nothing.
    """
    short = any(p.element_size() < 4 for p in model.parameters() if p.is_floating_point())
    wider = torch.float32 if short else torch.float64
    narrow: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {}

    def is_narrow(value: Any) -> bool:
        is_floating = isinstance(value, Tensor) and value.is_floating_point()
        return is_floating and value.element_size() < wider.itemsize

    def widen(module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        narrow[module] = [(t, t.data) for t in _tensors(module) if is_narrow(t)]
        for tensor, data in narrow[module]:
            tensor.data = data.to(wider)
        cast = {key: v.to(wider) if is_narrow(v) else v for key, v in kwargs.items()}
        return tuple(v.to(wider) if is_narrow(v) else v for v in args), cast

    def restore(module: nn.Module, args: Any, output: Any) -> None:
        for tensor, data in narrow.pop(module):
            tensor.data = data

    handles: list[Any] = []
    for module in _computing(model):
        handles.append(module.register_forward_pre_hook(widen, with_kwargs=True))
        handles.append(module.register_forward_hook(restore, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


TOGETHER = (BaseTunerLayer, AuxiliaryTrainingWrapper)


def _computing(module: nn.Module) -> Iterator[nn.Module]:
    """Modules with own parameters; an adapted layer, which reads its submodules', as one."""
    if isinstance(module, TOGETHER):
        yield module
        return
    if any(True for _ in module.parameters(recurse=False)):
        yield module
    for child in module.children():
        yield from _computing(child)


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    recurse = isinstance(module, TOGETHER)
    yield from module.parameters(recurse=recurse)
    yield from module.buffers(recurse=recurse)
