"""Find invalid weights that loading accepts: integers that are cast, NaN and infinity."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME


def find_invalid_weights(model: PreTrainedModel, folder: Path | None) -> list[str]:
    """Find parameters that were not floating point in their file, or are not finite.

    A quantized model stores integers on purpose: its files are not checked.

    Args:
        model: The loaded model.
        folder: Folder of its files, or None if unknown. Only safetensors files are checked.

    Returns:
        One phrase per parameter, with its name.
    """
    parameters = {name: p for name, p in model.named_parameters() if p.is_floating_point()}
    quantized = getattr(model.config, "quantization_config", None) is not None
    stored = {} if folder is None or quantized else _stored_dtypes(folder)
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
    return invalid


def _is_finite(values: Tensor) -> bool:
    """Check minimum and maximum, which are NaN if any value is: `isfinite` needs a large mask."""
    if values.numel() == 0 or values.device.type == "meta" or values.element_size() == 1:
        return True
    return all(bool(torch.isfinite(extreme)) for extreme in torch.aminmax(values))


def _stored_dtypes(folder: Path) -> dict[str, str]:
    """Read the dtypes of the tensors in a folder's safetensors, as the format names them."""
    single, index = folder / SAFE_WEIGHTS_NAME, folder / SAFE_WEIGHTS_INDEX_NAME
    names: Any = [single.name] if single.is_file() else []
    if not names and index.is_file():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    found: dict[str, str] = {}
    for name in names:
        with safe_open(folder / name, framework="pt") as file:
            found |= {key: file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118
    return found
