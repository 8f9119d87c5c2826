"""The fingerprint of the frozen weights of a model."""

import hashlib
from typing import Any

from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor, nn

from tera_pl.adapters.quantized import quantized_layers
from tera_pl.models.quantization import source_of
from tera_pl.tensor.checksums import digest_all


def fingerprint_frozen(model: nn.Module) -> str:
    """Hash all bytes of the frozen weights of a model.

    The weights in memory are hashed, so that their distribution over files has no effect. Of
    quantized layers the weights before quantization are: quantized on another kind of device, they
    would differ in a few last bits.

    Args:
        model: A model, adapted or not. Parameters that require a gradient are excluded. Frozen
            tensors that PEFT draws for an adapter and saves with it are included.

    Returns:
        A hexadecimal digest; that of no bytes if every parameter is trainable.
    """
    tensors = {name: p for name, p in model.named_parameters() if not p.requires_grad}
    source = source_of(model)
    if source is None:
        return digest_all(tensors | _drawn(model))
    layers = quantized_layers(model)
    rest = {name: p for name, p in tensors.items() if name.rpartition(".")[0] not in layers}
    found = digest_all(rest | _drawn(model))
    return hashlib.sha256(f"{source} {found}".encode()).hexdigest()


def _drawn(model: Any) -> dict[str, Tensor]:
    """Return tensors other than parameters that PEFT saves with an adapter: SHiRA's indices.

    The adapters of this package have a digest of their own over their frozen tensors.
    """
    if not isinstance(model, PeftModel) or not isinstance(model.base_model, BaseTuner):
        return {}
    if hasattr(model.active_peft_config, "frozen_sha256"):
        return {}
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    known = {p.data_ptr() for p in model.parameters()}
    return {f"adapter.{key}": t for key, t in state.items() if t.data_ptr() not in known}
