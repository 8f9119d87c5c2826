"""Merge adapters into the weights of a model with one rounding, and verify the result."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.trainable_tokens.layer import TrainableTokensLayer
from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor
from transformers import PreTrainedModel

from tera_pl.analysis.delta_weights import tuner_layers
from tera_pl.analysis.merged_layers import TOLERANCE, is_floating, merge_copy, try_merging
from tera_pl.distributed.fsdp2 import full_tensor
from tera_pl.errors import RunStoppedError, UserError

# Rounding a weight once moves it by at most half the step between neighboring values. From float64
# torch casts through float32, which adds 2**-16 of half a step of bfloat16.
LARGEST_SHARE = 1 + 2.0**-15


@dataclass(frozen=True)
class Rounding:
    """Distance of merged weights to the exact ones.

    Args:
        layers: Number of merged layers.
        largest: Largest distance of a merged weight to the exact one in float64.
        largest_share: The same in halves of the step between neighboring values at that weight: at
            most one if every weight was rounded to the nearest value.
        largest_layer_error: Largest difference between the outputs of a merged layer and the
            adapted one, both in float64, as a share of the layer's largest output.
    """

    layers: int
    largest: float
    largest_share: float
    largest_layer_error: float


def check_mergeable(model: PeftModel) -> None:
    """Refuse adapters that cannot be merged into weights, before any work is done.

    Args:
        model: An adapted model on any device, the meta device included; not changed.

    Raises:
        UserError: If the adapter cannot be merged, or the base is quantized.
    """
    config = model.active_peft_config
    kind = getattr(config.peft_type, "value", config.peft_type)
    instead = "export the adapter without --merge"
    if config.is_prompt_learning:
        raise UserError(
            f"{kind} puts tokens before the input and changes no weight: there is nothing to "
            f"merge; {instead}"
        )
    if not isinstance(model.base_model, BaseTuner):
        raise UserError(f"{kind} adds modules that cannot be merged into weights: {instead}")
    layers = tuner_layers(model)
    owners = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    tried = set()
    for name, layer in layers.items():
        base = layer.get_base_layer()
        if not is_floating(layer):
            raise UserError(
                f"--merge: {name} is quantized ({base.weight.dtype}), and a sum in its dtype would "
                "lose the weight update: add --dequantize to merge into dequantized weights"
            )
        # Trainable tokens are replaced in both layers alike.
        own = base.parameters(recurse=False)
        if not isinstance(layer, TrainableTokensLayer) and any(owners[id(p)] > 1 for p in own):
            raise UserError(
                f"{name} shares its weight with another layer, which would change too: {instead}"
            )
        like = (type(layer), type(base), getattr(base, "bias", None) is None)
        if like not in tried:
            tried.add(like)
            try:
                try_merging(layer)
            except UserError as error:
                raise UserError(f"{kind}, {name}: {error}; {instead}") from error


@torch.no_grad()
def merge(model: PeftModel) -> tuple[PreTrainedModel, Rounding]:
    """Merge an adapter into its base model, layer by layer, in place.

    Every layer is merged in float64 and rounded to the dtype of its weights once. One layer at a
    time is in float64; there is no second copy of the model. A layer is accepted only if, before
    rounding, it computes the same as the adapted layer, and if no weight is further from the exact
    one than one rounding explains.

    Args:
        model: An adapted model; not usable afterwards.

    Returns:
        The base model with merged weights and all other trained tensors, and the distance of the
        merged weights to the exact ones.

    Raises:
        RunStoppedError: If a merged layer does not compute the same as the adapted one.
    """
    check_mergeable(model)
    layers = tuner_layers(model)
    errors = [_merge_layer(name, layer) for name, layer in layers.items()]
    merged = model.unload()
    largest, share, layer_error = (max(values, default=0.0) for values in zip(*errors, strict=True))
    return merged, Rounding(len(layers), largest, share, layer_error)


def _merge_layer(name: str, layer: Any) -> tuple[float, float, float]:
    merged = merge_copy(layer)
    # Not "greater": NaN is neither.
    if not merged.error <= TOLERANCE:
        raise RunStoppedError(
            f"merging {name} would change what it computes, by {merged.error:.3g} of its largest "
            f"output (at most {TOLERANCE:.3g} is rounding); nothing was written"
        )
    base = layer.get_base_layer()
    own = dict(base.named_parameters())
    largest = share = 0.0
    for key, exact in merged.parameters.items():
        if key not in own:
            if exact.any():
                raise UserError(f"{name} trains a {key}, and the model has no place for one")
            continue
        if torch.equal(exact, full_tensor(own[key]).double()):
            continue
        own[key].data.copy_(exact)
        found, found_share = _measure(own[key], exact)
        if not found_share <= LARGEST_SHARE:
            raise RunStoppedError(
                f"merging {name}: a {key} is {found:.3g} away from the exact one, "
                f"{found_share:.3g} halves of the step between neighbors; nothing was written"
            )
        largest, share = max(largest, found), max(share, found_share)
    return largest, share, merged.error


def _measure(merged: Tensor, exact: Tensor) -> tuple[float, float]:
    distance = (merged.double() - exact).abs()
    info = torch.finfo(merged.dtype)
    # Half a step between neighbors of the exact sum; below the smallest normal value, of that.
    exponent = torch.floor(torch.log2(exact.abs().clamp(min=info.smallest_normal)))
    half_step = torch.exp2(exponent) * info.eps / 2
    return distance.max().item(), (distance / half_step).max().item()
