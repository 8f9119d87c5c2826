"""Tiny random models of many architectures."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

# Heads of 8 values, so that each architecture has rotary embeddings of the whole or a part. Weights
# large enough that attention and not the embedding decides.
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# Shorter than most test sequences; in one of the layers where an architecture can mix.
WINDOW = {"sliding_window": 4}
MIXED = WINDOW | {"layer_types": ["sliding_attention", "full_attention"]}
SOME = WINDOW | {"use_sliding_window": True, "layer_types": ["full_attention", "sliding_attention"]}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
HEAD = {"head_dim": 8}
# The settings of each architecture beside the common ones.
CONFIGS: dict[str, dict[str, Any]] = {
    "arcee": {},
    "bloom": {},
    "cohere": {},
    "cohere2": MIXED,
    "ernie4_5": {},
    "exaone4": MIXED,
    "falcon": {},
    "gemma": HEAD,
    "gemma2": MIXED | HEAD | {"query_pre_attn_scalar": 8},
    "gemma3_text": MIXED | HEAD | {"query_pre_attn_scalar": 8},
    "glm": HEAD,
    "glm4": HEAD,
    "gpt2": {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0},
    "gpt_bigcode": {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0},
    "gpt_neox": {},
    "granite": {},
    "helium": HEAD,
    "llama": {},
    "ministral": MIXED | HEAD,
    "mistral": WINDOW,
    "mixtral": WINDOW | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "nemotron": HEAD,
    "olmo": {},
    "olmo2": {},
    "olmo3": MIXED,
    "olmoe": EXPERTS,
    "opt": {"ffn_dim": 40, "word_embed_proj_dim": 32, "dropout": 0.0},
    "phi": {},
    "phi3": WINDOW,
    "qwen2": SOME,
    "qwen2_moe": EXPERTS | {"shared_expert_intermediate_size": 16},
    "qwen3": SOME | HEAD,
    "qwen3_moe": EXPERTS | HEAD,
    "seed_oss": HEAD,
    "smollm3": SOME,
    "stablelm": {},
    "starcoder2": WINDOW | {"residual_dropout": 0.0, "embedding_dropout": 0.0},
}


def tiny_config(name: str, vocab_size: int) -> PreTrainedConfig:
    return AutoConfig.for_model(name, vocab_size=vocab_size, **(SMALL | CONFIGS[name]))


def tiny_model(name: str, vocab_size: int, attention: str | None = None) -> PreTrainedModel:
    """A random model; the same weights for the same architecture and size."""
    torch.manual_seed(0)
    # A configuration of its own: the model writes its attention into it.
    config = tiny_config(name, vocab_size)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention)
