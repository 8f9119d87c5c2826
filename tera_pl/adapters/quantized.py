"""Quantized linear layers: how they are recognized, and what their weights consist of."""

from collections.abc import Iterable, Iterator
from typing import Any

from peft.utils.quantization_utils import resolve_quantization_backend
from torch import Tensor, nn


def is_quantized(layer: Any) -> bool:
    """Check whether a linear layer holds its weight in a quantized form.

    The type of the weight does not show it: bitsandbytes may store 4-bit values as bfloat16.

    Args:
        layer: A layer without an adapter.

    Returns:
        Whether it is a quantized layer of a library that PEFT supports.
    """
    # Of torchao, PEFT wants to know how to quantize a weight again, which is not asked of it here.
    settings = {"get_apply_tensor_subclass": _unused}
    return resolve_quantization_backend(layer, **settings) is not None


def _unused() -> None:
    raise AssertionError


def quantized_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Find the quantized layers of a model.

    Args:
        model: A model, adapted or not.

    Returns:
        The layers by name.
    """
    return {name: module for name, module in model.named_modules() if is_quantized(module)}


def scales_of(layer: Any) -> Iterator[Tensor]:
    """Iterate over the tensors that a quantized weight needs beside its integers.

    Args:
        layer: A quantized layer of bitsandbytes; others have none here.

    Yields:
        Tensors: the scales of rows (8 bit) or blocks (4 bit), and what these are quantized with.
    """
    state = getattr(layer.weight, "quant_state", None)
    while state is not None:
        yield state.absmax
        yield state.code
        if state.offset is not None:
            yield state.offset
        state = state.state2
    # The first call moves the scales of 8 bits from the weight to the layer.
    for owner in (layer.weight, getattr(layer, "state", None)):
        if (scales := getattr(owner, "SCB", None)) is not None:
            yield scales
            return


def number_of_weights(parameter: Tensor) -> int:
    """Count the weights that a parameter holds; two of 4 bits are one integer of 8."""
    state: Any = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else state.shape.numel()


def bytes_of_scales(modules: Iterable[nn.Module]) -> int:
    """Sum the bytes of the scales of all quantized layers among some modules."""
    return sum(
        scales.numel() * scales.element_size()
        for module in modules
        if is_quantized(module)
        for scales in scales_of(module)
    )
