"""Find invalid weights that loading accepts: integers that are cast, NaN and infinity."""

from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedModel

from tera_pl.adapters.quantized import quantized_layers, scales_of
from tera_pl.models.hub import weight_files


def find_invalid_weights(model: PreTrainedModel, folder: Path | None) -> list[str]:
    """Find parameters that were not floating point in their file, or are not finite.

    A quantized model stores integers on purpose: its files are not checked, but the scales of its
    weights are.

    Args:
        model: The loaded model.
        folder: Folder of its files, or None if unknown. Only safetensors files are checked.

    Returns:
        One phrase per parameter, with its name.
    """
    layers = quantized_layers(model)
    # 4-bit values may be stored as floating point, whose bits mean something else.
    parameters = {
        name: p
        for name, p in model.named_parameters()
        if p.is_floating_point() and name.removesuffix(".weight") not in layers
    }
    stored = {} if folder is None or layers else _stored_dtypes(folder)
    invalid = []
    for name, dtype in stored.items():
        # Files of a model without its head lack the prefix, or have one more.
        prefix = f"{model.base_model_prefix}."
        names = {name, prefix + name, name.removeprefix(prefix)}
        if not dtype.startswith(("F", "BF")) and names & parameters.keys():
            invalid.append(f"{name} is stored as {dtype} instead of floating point")
    for name, parameter in parameters.items():
        if not _is_finite(parameter.detach()):
            dtype = str(parameter.dtype).removeprefix("torch.")
            invalid.append(f"{name} has values that are NaN or infinite in {dtype}")
    for name, layer in layers.items():
        if not all(_is_finite(scales) for scales in scales_of(layer)):
            invalid.append(f"{name}.weight had values that are NaN or infinite when quantized")
    return invalid


def _is_finite(values: Tensor) -> bool:
    """Check minimum and maximum, which are NaN if any value is: `isfinite` needs a large mask."""
    if values.numel() == 0 or values.device.type == "meta" or values.element_size() == 1:
        return True
    return all(bool(torch.isfinite(extreme)) for extreme in torch.aminmax(values))


def _stored_dtypes(folder: Path) -> dict[str, str]:
    """Read the dtypes of the tensors in a folder's safetensors, as the format names them."""
    found: dict[str, str] = {}
    for path in weight_files(folder):
        if path.suffix != ".safetensors":
            continue
        with safe_open(path, framework="pt") as file:
            found |= {key: file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118
    return found
