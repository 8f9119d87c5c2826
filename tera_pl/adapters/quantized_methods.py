"""Which methods of PEFT train on a quantized base as on the weights that it stands for."""

from typing import Any

from peft import PeftConfig
from torch import nn

from tera_pl.adapters.quantized import quantized_layers
from tera_pl.errors import UserError

_COMPUTES = "its layers compute with the base weight, and PEFT gives them the integers"
_CASTS = "PEFT casts its frozen scales to the integers of the base, where they are zero"
_PACKED = "its weight update gets the shape of the base weight, and 4 bits pack two into one"
_DROPS = "on a CPU, PEFT drops the scales of 8-bit layers after the first step"
# By method. Without this, DEFT, HRA and PEANUT train on 8 bits with wrong gradients, UniLoRA with
# none, and the others end with an error of torch.
UNSUPPORTED = {
    "ADAMSS": _COMPUTES,
    "DEFT": _COMPUTES,
    "DELORA": _COMPUTES,
    "FROD": _COMPUTES,
    "GLORA": _COMPUTES,
    "HRA": _COMPUTES,
    "OSF": _COMPUTES,
    "PEANUT": _COMPUTES,
    "PSOFT": _COMPUTES,
    "SUPERTUNING": _COMPUTES,
    "TINYLORA": _COMPUTES,
    "UNILORA": _CASTS,
}
UNSUPPORTED_IN_4_BITS = {"LOHA": _PACKED, "LOKR": _PACKED}
# Initializations of LoRA that leave the base weight as it is.
INITIALIZATIONS = {True, False, "gaussian", "orthogonal"}


def check_quantized_method(model: nn.Module, config: PeftConfig) -> None:
    """Refuse a method that would train other than on the dequantized base.

    Args:
        model: The base model, on any device.
        config: Configuration of any PEFT method.

    Raises:
        UserError: If the base is quantized and the method uses its weight as it is stored.
    """
    layers = quantized_layers(model)
    if not layers:
        return
    kind = getattr(config.peft_type, "value", config.peft_type)
    in_4_bits = any(type(layer).__name__ == "Linear4bit" for layer in layers.values())
    reason = UNSUPPORTED.get(kind) or (UNSUPPORTED_IN_4_BITS.get(kind) if in_4_bits else None)
    if kind == "LORA":
        reason = _refuse_lora(config, in_4_bits=in_4_bits)
    if reason is not None:
        raise UserError(
            f"{type(config).__name__} cannot be trained on a quantized base: {reason}: use another "
            "method, or no model.init_args.backbone.quantization"
        )
    for name in getattr(config, "modules_to_save", None) or ():
        if found := [layer for layer in layers if layer.split(".")[-1] == name or layer == name]:
            raise UserError(f"modules_to_save: {found[0]} is quantized and cannot be trained")


def _refuse_lora(config: Any, *, in_4_bits: bool) -> str | None:
    if config.init_lora_weights not in INITIALIZATIONS:
        return (
            f"init_lora_weights {config.init_lora_weights!r} changes the base weight, which would "
            "be rounded again"
        )
    return _DROPS if config.use_dora and not in_4_bits else None
