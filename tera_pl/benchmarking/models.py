"""Models of named shapes with random weights, bare and adapted, that share their weights."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import peft
import torch
from peft import PeftConfig
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from tera_pl.adapters import LorettaConfig, LotrConfig, MoraConfig, TeraConfig

# The shapes of decoder layers are the named models'; their number is small where it is not given,
# for time and memory per layer do not depend on it. SmolLM2 is small enough to be whole.
SHAPES: dict[str, dict[str, Any]] = {
    "cpu_small": {
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "vocab_size": 8192,
    },
    "smollm2_135m": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
    },
    "llama2_7b": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 32000,
    },
    "llama3_8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
}
NUM_LAYERS = 4
_TARGETS = ["q_proj", "v_proj"]
METHODS: dict[str, PeftConfig | None] = {
    "tera": TeraConfig(target_modules=_TARGETS, out_modes=2),
    "tera_identity": TeraConfig(target_modules=_TARGETS, out_modes=2, factor_init="identity"),
    "tera_kronecker": TeraConfig(target_modules=_TARGETS, out_modes=2, factor_init="kronecker"),
    "tera_structured": TeraConfig(
        target_modules=_TARGETS, out_modes=2, core_init="kronecker", factor_init="kronecker"
    ),
    "tera_both_split": TeraConfig(target_modules=_TARGETS, out_modes=2, in_modes=2),
    "lora_r32": peft.LoraConfig(target_modules=_TARGETS, r=32, lora_alpha=64),
    "dora_r32": peft.LoraConfig(target_modules=_TARGETS, r=32, lora_alpha=64, use_dora=True),
    "hira_r32": peft.HiraConfig(target_modules=_TARGETS, r=32),
    "vera_r256": peft.VeraConfig(target_modules=_TARGETS, r=256),
    "randlora_r32": peft.RandLoraConfig(target_modules=_TARGETS, r=32),
    "ia3": peft.IA3Config(target_modules=_TARGETS, feedforward_modules=[]),
    "loretta_r16": LorettaConfig(target_modules=_TARGETS, r=16),
    "mora_r32": MoraConfig(target_modules=_TARGETS, r=32),
    "lotr_r32": LotrConfig(target_modules=_TARGETS, r=32),
    "prompt_tuning_20": peft.PromptTuningConfig(num_virtual_tokens=20),
    "p_tuning_20": peft.PromptEncoderConfig(num_virtual_tokens=20, encoder_hidden_size=128),
    "full": None,
}


def build_base(shape: str, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """Build a frozen model with random weights.

    Args:
        shape: A name of `SHAPES`.
        device: Where to.
        dtype: Type of its weights.

    Returns:
        The model, in training mode.
    """
    config = LlamaConfig(
        **{"num_hidden_layers": NUM_LAYERS, "max_position_embeddings": 32768} | SHAPES[shape]
    )
    torch.manual_seed(0)
    with device, default_dtype(dtype):
        model = LlamaForCausalLM(config)
    model.requires_grad_(False)
    return model.train()


def adapt(base: PreTrainedModel, method: str) -> nn.Module:
    """Adapt a model without a copy of its weights.

    Args:
        base: The model; it stays as it is.
        method: A name of `METHODS`.

    Returns:
        An adapted model whose frozen weights are those of `base`; for full fine-tuning a copy.
    """
    if METHODS[method] is None:
        return copy.deepcopy(base).requires_grad_(True).train()
    shared: dict[int, Any] = {id(p): p for p in base.parameters()}
    model = copy.deepcopy(base, shared)
    config = copy.deepcopy(METHODS[method])
    assert config is not None
    config.task_type = "CAUSAL_LM"
    return peft.get_peft_model(model, config).train()


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Make floating-point tensors of a type by default."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
