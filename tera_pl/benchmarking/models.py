"""Named model shapes with random weights: a base model and adapted models that share them."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import peft
import torch
from peft import PeftConfig
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from tera_pl.adapters import (
    LoraXsConfig,
    LorettaConfig,
    LotrConfig,
    MoraConfig,
    NolaConfig,
    TeraConfig,
)

# Decoder layers have the shapes of the named models. There are NUM_LAYERS of them, unless stated:
# ratios hardly depend on their number. SmolLM2 is small enough to have all of its layers.
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
    "road_1": peft.RoadConfig(target_modules=_TARGETS),
    "loretta_r16": LorettaConfig(target_modules=_TARGETS, r=16),
    "mora_r32": MoraConfig(target_modules=_TARGETS, r=32),
    "lora_xs_r16": LoraXsConfig(target_modules=_TARGETS, r=16),
    "nola_k256": NolaConfig(target_modules=_TARGETS, k=256),
    "lotr_r32": LotrConfig(target_modules=_TARGETS, r=32),
    "prompt_tuning_20": peft.PromptTuningConfig(num_virtual_tokens=20),
    "p_tuning_20": peft.PromptEncoderConfig(num_virtual_tokens=20, encoder_hidden_size=128),
    "full": None,
}


def build_base(shape: str, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """Build a frozen model with random weights.

    Args:
        shape: A name of `SHAPES`.
        device: Device of its weights.
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
    """Add an adapter to a model without copying its weights.

    Args:
        base: The base model; not changed.
        method: A name of `METHODS`.

    Returns:
        An adapted model that shares its frozen weights with `base`; for full fine-tuning a copy.
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
    """Set the default floating-point type within a block."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
