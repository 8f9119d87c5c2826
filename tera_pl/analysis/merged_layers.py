"""Merge a copy of one layer in float64: this defines its merged weight and its weight update.

Methods of PEFT add to a weight, scale it, rotate it or replace it, and their `get_delta_weight` is
not always the weight update. What they have in common is `merge`, which is the only definition of
merging here. On a copy of the layer in float64 it gives the merged weight exactly, and the copy
shows whether the merged layer computes the same as the adapted one. The weight update is the merged
weight minus the base weight.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tera_pl.adapters.quantized import is_quantized
from tera_pl.distributed.fsdp2 import full_tensor
from tera_pl.errors import UserError

# Largest difference between the outputs of the merged and the adapted layer, as a share of the
# largest output. Both are computed in float64, where methods differ by 1e-15; some compute a part
# in float32 whatever the dtype of their parameters (C3A, DEFT: 1e-7).
TOLERANCE = 2.0**-18
ROWS = 8


@dataclass(frozen=True)
class MergedLayer:
    """An adapted layer after merging.

    Args:
        parameters: Parameters of the base layer after merging, by name, in float64. A linear layer
            without a bias gets one here.
        error: Largest difference between the outputs of the merged and the adapted layer on random
            inputs, as a share of the largest output; zero for layers that are not probed.
    """

    parameters: dict[str, Tensor]
    error: float


@torch.no_grad()
def merge_copy(
    layer: Any, adapter_name: str = "default", values: Mapping[str, Tensor] | None = None
) -> MergedLayer:
    """Merge a copy of a layer in float64 by PEFT's own `merge`.

    Args:
        layer: An adapted layer; not changed. If its weights are sharded, all processes must call
            this together.
        adapter_name: Which adapter.
        values: Tensors that replace parameters of the layer, by name.

    Returns:
        The merged parameters and their error.

    Raises:
        UserError: If the base is quantized, or PEFT cannot merge the method.
    """
    if not is_floating(layer):
        raise UserError("the base is quantized: there is no exact sum with its weight")
    replica = _exact_copy(layer, adapter_name, values or {})
    base = replica.get_base_layer()
    if isinstance(base, nn.Linear) and base.bias is None:
        # Methods that train a bias merge it into this one only.
        zeros = base.weight.new_zeros(base.weight.shape[0])
        base.bias = nn.Parameter(zeros, requires_grad=False)
    inputs = _probe(base)
    expected = None if inputs is None else replica(inputs)
    _merge(replica, adapter_name)
    base = replica.get_base_layer()
    error = 0.0
    if expected is not None:
        largest = expected.abs().max().clamp(min=torch.finfo(torch.float64).tiny)
        error = ((base(inputs) - expected).abs().max() / largest).item()
    return MergedLayer({name: p.detach() for name, p in base.named_parameters()}, error)


def try_merging(layer: Any, adapter_name: str = "default") -> None:
    """Check on the meta device, at no cost, whether a method can be merged into a layer.

    Args:
        layer: An adapted layer on any device; not changed.
        adapter_name: Which adapter.

    Raises:
        UserError: If PEFT cannot merge it, or merging would add a bias to a layer without one.
    """
    memo = {id(t): _like(t, torch.empty_like(t, device="meta")) for t in _tensors(layer)}
    replica = copy.deepcopy(layer, memo)
    had_bias = getattr(replica.get_base_layer(), "bias", None) is not None
    try:
        _merge(replica, adapter_name)
    except UserError as error:
        # Some operations have no result without values; the real merge checks these.
        if "meta" not in str(error.__cause__).lower():
            raise
        return
    if not had_bias and getattr(replica.get_base_layer(), "bias", None) is not None:
        raise UserError("it trains a bias for a layer without one")


def is_floating(layer: Any) -> bool:
    """Check that the base weight of a layer is floating point, that is, not quantized."""
    base = layer.get_base_layer()
    weight = getattr(base, "weight", None)
    if weight is None:
        return True
    return weight.is_floating_point() and weight.element_size() > 1 and not is_quantized(base)


def is_transposed(layer: Any) -> bool:
    """Check whether the weight of a layer is stored as `(in_features, out_features)`."""
    return isinstance(layer.get_base_layer(), Conv1D | nn.Embedding)


def _merge(replica: Any, adapter_name: str) -> None:
    try:
        replica.merge(adapter_names=[adapter_name])
    # A method without a merge raises NotImplementedError, others any error.
    except Exception as error:
        reason = str(error) or "PEFT has no merge for it"
        raise UserError(f"it cannot be merged: {reason}") from error


def _exact_copy(layer: Any, adapter_name: str, values: Mapping[str, Tensor]) -> Any:
    """Copy a layer in float64 without an intermediate copy."""
    given = {id(p): values[name] for name, p in layer.named_parameters() if name in values}
    memo = {}
    for tensor in _tensors(layer):
        value = full_tensor(given.get(id(tensor), tensor).detach())
        dtype = torch.float64 if value.is_floating_point() else value.dtype
        memo[id(tensor)] = _like(tensor, value.to(tensor.device, dtype, copy=True))
    replica = copy.deepcopy(layer, memo).eval()
    if replica.merged:
        replica.unmerge()
    if replica.active_adapters != [adapter_name]:
        replica.set_adapter([adapter_name])
    replica._disable_adapters = False
    return replica


def _tensors(layer: nn.Module) -> list[Tensor]:
    return [*layer.parameters(), *layer.buffers()]


def _like(tensor: Tensor, value: Tensor) -> Tensor:
    """A parameter for a parameter, a buffer for a buffer."""
    is_parameter = isinstance(tensor, nn.Parameter)
    return nn.Parameter(value, requires_grad=False) if is_parameter else value


def _probe(base: Any) -> Tensor | None:
    """Random inputs for the kinds of layers that language models are made of."""
    weight = getattr(base, "weight", None)
    if weight is None or weight.ndim > 2:
        return None
    generator = torch.Generator().manual_seed(0)
    if isinstance(base, nn.Embedding):
        rows = torch.randint(len(weight), (ROWS, 64), generator=generator)
        return rows.to(weight.device)
    size = weight.shape[0] if isinstance(base, Conv1D) else weight.shape[-1]
    inputs = torch.randn(2, ROWS // 2, size, generator=generator, dtype=torch.float64)
    return inputs.to(weight.device)
