"""A tiny Llama whose projections have unequal sizes: q 24 -> 24, v 24 -> 12, down 30 -> 24."""

from collections.abc import Callable

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM


@pytest.fixture
def llama() -> Callable[..., LlamaForCausalLM]:
    def build(dtype: torch.dtype = torch.float32, seed: int = 0) -> LlamaForCausalLM:
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=40,
            hidden_size=24,
            intermediate_size=30,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
        return LlamaForCausalLM(config).to(dtype).eval()

    return build


@pytest.fixture
def input_ids() -> torch.Tensor:
    return torch.tensor([[3, 7, 1, 30, 12], [5, 9, 39, 2, 0]])


@pytest.fixture
def perturb() -> Callable[[torch.nn.Module], None]:
    """Move every trainable parameter away from its initial value."""

    def move(model: torch.nn.Module) -> None:
        generator = torch.Generator().manual_seed(1)
        for parameter in model.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
                parameter.data.add_(noise.to(parameter), alpha=0.3)

    return move
