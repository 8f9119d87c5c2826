"""Count the parameters that a method trains, saves and adds."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import Tensor, nn

from tera_pl.adapters.config import FrozenConfig
from tera_pl.adapters.quantized import bytes_of_scales, number_of_weights


@dataclass(frozen=True)
class Counts:
    """Parameters and bytes of a model and its adapter.

    Args:
        trained: Trainable parameters, all kinds together.
        trained_norms: Trainable weights and biases of normalization layers.
        trained_biases: Trainable biases of other layers of the base.
        trained_percent: Trainable parameters in percent of `base` and `trained` together: the
            paper's trainable / (frozen + trainable) over all layers. Frozen parameters of the
            adapter are drawn from a seed and not counted.
        stored: Values in the adapter's file; in the model's, if there is no adapter. Prompt methods
            store the prompt that their encoder computes, not the encoder.
        stored_bytes: Their bytes, without names and header.
        base: Frozen parameters of the model; of quantized layers the weights, not the integers that
            hold them.
        base_bytes: Their bytes, with the scales of quantized weights.
        frozen_adapter: Frozen parameters of the adapter; shared ones once.
        frozen_adapter_bytes: Their bytes.
    """

    trained: int
    trained_norms: int
    trained_biases: int
    trained_percent: float
    stored: int
    stored_bytes: int
    base: int
    base_bytes: int
    frozen_adapter: int
    frozen_adapter_bytes: int


def count(model: nn.Module) -> Counts:
    """Count the parameters and bytes of a model and its active adapter.

    Args:
        model: A model, adapted by PEFT or not, on any device, the meta device included. It is
            not changed.

    Returns:
        The counts.
    """
    added = _added(model)
    # PyTorch lists a shared tensor once.
    parameters = list(model.parameters())
    trained = [p for p in parameters if p.requires_grad]
    base = [p for p in parameters if not p.requires_grad and id(p) not in added]
    frozen = [t for t in added.values() if not t.requires_grad]
    norms = {id(p): p for m in model.modules() if _is_norm(m) for p in m.parameters(recurse=False)}
    biases = {
        id(p): p
        for name, p in model.named_parameters()
        if name.rpartition(".")[2] == "bias" and id(p) not in added.keys() | norms.keys()
    }
    stored = _stored(model, frozen)
    num_trained, num_base = _count(trained), _count(base)
    base_bytes = bytes_of(base) + bytes_of_scales(model.modules())
    return Counts(
        trained=num_trained,
        trained_norms=_count(p for p in trained if id(p) in norms),
        trained_biases=_count(p for p in trained if id(p) in biases),
        trained_percent=100 * num_trained / max(1, num_base + num_trained),
        stored=_count(stored),
        stored_bytes=bytes_of(stored),
        base=num_base,
        base_bytes=base_bytes,
        frozen_adapter=_count(frozen),
        frozen_adapter_bytes=bytes_of(frozen),
    )


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Sum the bytes of tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _count(tensors: Iterable[Tensor]) -> int:
    return sum(number_of_weights(tensor) for tensor in tensors)


def _added(model: nn.Module) -> dict[int, Tensor]:
    """Tensors that PEFT added to a model, by identity, wherever a method stores them."""
    found: dict[int, Tensor] = {}
    for module in model.modules():
        for name, child in module.named_children():
            if (
                (isinstance(module, BaseTunerLayer) and name != "base_layer")
                or (isinstance(module, BaseTuner) and name != "model")
                or (isinstance(module, PeftModel) and name == "prompt_encoder")
            ):
                found |= {id(t): t for t in (*child.parameters(), *child.buffers())}
    return found


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()


def _stored(model: Any, frozen: list[Tensor]) -> list[Tensor]:
    """The tensors that saving writes, or tensors of the same shape and dtype."""
    if not isinstance(model, PeftModel):
        return list(model.parameters())
    name = model.active_adapter
    config = model.peft_config[name]
    if config.is_prompt_learning:
        encoder = model.prompt_encoder[name]
        # PEFT itself moves the prompt to the CPU, which fails on the meta device.
        tokens = model.prompt_tokens[name][None].to(encoder.embedding.weight.device)
        with torch.no_grad():
            return [encoder(tokens)[0]]
    saves_frozen = isinstance(config, FrozenConfig) and config.save_frozen
    if saves_frozen:  # saving would draw them again to verify them
        config.save_frozen = False
    try:
        state = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    finally:
        if saves_frozen:
            config.save_frozen = True
    masters = [t.to("meta", torch.float32) for t in frozen] if saves_frozen else []
    return [*state.values(), *masters]
