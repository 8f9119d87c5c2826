"""PEFT's converter to LoRA on all tuners of this package, for Linear and Conv1D."""

import peft
import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from tera_pl.adapters import LorettaConfig, LotrConfig, MoraConfig, TeraConfig

METHODS = [
    (TeraConfig, {"out_modes": 2}),
    (LorettaConfig, {"r": 2, "tensor_rank": 2}),
    (MoraConfig, {"r": 4}),
    (LotrConfig, {"r": 3}),
]


def llama():
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
    )
    return LlamaForCausalLM(config), ["q_proj", "v_proj"]


def gpt2():
    config = GPT2Config(vocab_size=40, n_positions=32, n_embd=24, n_layer=2, n_head=2)
    return GPT2LMHeadModel(config), ["c_attn"]  # a Conv1D


def adapted(build, method, settings):
    torch.manual_seed(0)
    base, targets = build()
    model = peft.get_peft_model(base, method(target_modules=targets, **settings)).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter)
    return model


@pytest.mark.parametrize("build", [llama, gpt2])
@pytest.mark.parametrize(("method", "settings"), METHODS)
@torch.no_grad()
def test_lora_with_all_singular_values_computes_the_same(tmp_path, build, method, settings):
    model = adapted(build, method, settings)
    tokens = torch.arange(12).reshape(2, 6)
    expected = model(tokens).logits
    peft.save_as_lora(tmp_path, model, rank=24)  # of 24 x 24 and 72 x 24
    torch.manual_seed(0)
    base, _ = build()
    alone = base(tokens).logits
    lora = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    assert lora.peft_config["default"].peft_type == "LORA"
    torch.testing.assert_close(lora(tokens).logits, expected, rtol=1e-4, atol=1e-4)
    assert (alone - expected).abs().max() > 1e-2


@pytest.mark.parametrize("build", [llama, gpt2])
@torch.no_grad()
def test_lora_of_a_rank_is_the_best_approximation(build):
    model = adapted(build, *METHODS[0])
    config, state = peft.convert_to_lora(model, rank=3)
    assert (config.r, config.lora_alpha, config.rank_pattern) == (3, 3, {})
    layers = {n: m for n, m in model.named_modules() if hasattr(m, "get_delta_weight")}
    assert len(layers) == len(state) / 2
    for name, layer in layers.items():
        left, values, right = torch.linalg.svd(layer.get_delta_weight("default").double())
        best = left[:, :3] * values[:3] @ right[:3]
        product = state[f"{name}.lora_B.weight"].double() @ state[f"{name}.lora_A.weight"].double()
        torch.testing.assert_close(product, best, rtol=1e-4, atol=1e-4)
