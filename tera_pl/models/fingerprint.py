"""The fingerprint of the frozen weights of a model."""

from typing import Any

from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor, nn

from tera_pl.tensor.checksums import digest_all


def fingerprint_frozen(model: nn.Module) -> str:
    """Identify the frozen weights of a model by all their bytes.

    The weights are hashed as they are in memory: how they are distributed over files has no
    effect, and what is identified is what computes.

    Args:
        model: A model, adapted or not. Parameters that require a gradient are left out. What PEFT
            draws for an adapter and saves with it is in.

    Returns:
        A hexadecimal digest; that of nothing if every parameter is trained.
    """
    tensors = {name: p for name, p in model.named_parameters() if not p.requires_grad}
    return digest_all(tensors | _drawn(model))


def _drawn(model: Any) -> dict[str, Tensor]:
    """What PEFT saves with an adapter that is no parameter: positions that SHiRA has drawn.

    Our own adapters have a digest of their own over what they draw.
    """
    if not isinstance(model, PeftModel) or not isinstance(model.base_model, BaseTuner):
        return {}
    if hasattr(model.active_peft_config, "frozen_sha256"):
        return {}
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    known = {p.data_ptr() for p in model.parameters()}
    return {f"adapter.{key}": t for key, t in state.items() if t.data_ptr() not in known}
