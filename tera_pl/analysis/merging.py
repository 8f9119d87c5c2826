"""Add weight updates to the weights they belong to, with one rounding."""

from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.ia3.layer import IA3Layer
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tera_pl.analysis.updates import adapted_layers, layer_update
from tera_pl.errors import UserError


@dataclass(frozen=True)
class Rounding:
    """How far merged weights are from the exact sums.

    Args:
        layers: Number of merged layers.
        largest: Largest distance of a merged weight to the sum in float64.
        largest_share: The same in halves of the step between neighbours at that weight: at most
            one where every sum was rounded to the nearest number.
    """

    layers: int
    largest: float
    largest_share: float


@torch.no_grad()
def merge(model: PeftModel) -> tuple[PreTrainedModel, Rounding]:
    """Merge an adapter into its base model, layer by layer, in place.

    Sums are taken in float32 and rounded to the type of the weight once. One weight at a time is
    held in float32 (in float64, to measure the rounding); there is no second copy of the model.

    Args:
        model: An adapted model; of no use afterwards.

    Returns:
        The base model with merged weights and every other trained tensor in its place, and how far
        the merged weights are from the exact sums.

    Raises:
        UserError: If the adapter is none that lies in the weights, or the base is quantised.
    """
    if model.active_peft_config.is_prompt_learning:
        raise UserError(
            f"{model.active_peft_config.peft_type.value} puts tokens before the input and changes "
            "no weight: there is nothing to merge; export the adapter without --merge"
        )
    layers = adapted_layers(model)
    roundings = [_merge_layer(name, layer) for name, layer in layers.items()]
    merged = model.unload()
    largest, share = (max(values, default=0.0) for values in zip(*roundings, strict=True))
    return merged, Rounding(len(layers), largest, share)


def _merge_layer(name: str, layer: Any) -> tuple[float, float]:
    base = layer.get_base_layer()
    weight = base.weight
    if not weight.is_floating_point():
        raise UserError(
            f"{name} is quantised ({weight.dtype}): a sum in its type would lose the update; "
            "export with --dequantise"
        )
    if isinstance(layer, LoraLayer) and any(layer.lora_bias.values()):
        raise UserError(
            f"{name} has a trained bias (lora_bias): such an adapter is not merged here"
        )
    update = layer_update(layer)
    update = update.T if isinstance(base, Conv1D) else update
    wide = torch.promote_types(weight.dtype, torch.float32)
    merged = (weight.to(wide) + update.to(wide)).to(weight.dtype)
    rounding = _measure(merged, weight.double() + update.double())
    weight.data.copy_(merged)
    if isinstance(layer, IA3Layer) and not layer.is_feedforward and base.bias is not None:
        base.bias.data.mul_(layer.ia3_l["default"].flatten())
    return rounding


def _measure(merged: Tensor, exact: Tensor) -> tuple[float, float]:
    distance = (merged.double() - exact).abs()
    info = torch.finfo(merged.dtype)
    # Half a step between neighbours of the exact sum; of the smallest normal number for less.
    exponent = torch.floor(torch.log2(exact.abs().clamp(min=info.smallest_normal)))
    half_step = torch.exp2(exponent) * info.eps / 2
    return distance.max().item(), (distance / half_step).max().item()
