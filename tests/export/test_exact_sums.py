"""Merged weights are the exact sums, rounded once."""

import copy

import peft
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tera_pl.adapters import LorettaConfig, LotrConfig, MoraConfig, TeraConfig
from tera_pl.analysis.merging import merge
from tests.commands.test_export import TARGETS

pytestmark = pytest.mark.slow


CONFIGS = {
    "tera": TeraConfig(target_modules=TARGETS, init_weights=False),
    "loretta": LorettaConfig(r=4, tensor_rank=2, target_modules=TARGETS, init_weights=False),
    "mora": MoraConfig(r=2, target_modules=TARGETS, init_weights=False),
    "lotr": LotrConfig(r=3, target_modules=TARGETS, init_weights=False),
    "lora": peft.LoraConfig(r=2, target_modules=TARGETS, init_lora_weights=False),
    "hira": peft.HiraConfig(r=2, target_modules=TARGETS, init_weights=False),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_bfloat16_weights_are_the_exact_sums_rounded_once(name):
    torch.manual_seed(0)
    sizes = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 60}
    base = LlamaForCausalLM(LlamaConfig(**sizes, **heads)).to(torch.bfloat16)
    model = peft.get_peft_model(base, CONFIGS[name])
    layers = {n: m for n, m in model.named_modules() if hasattr(m, "get_delta_weight")}
    expected = {}
    for path, layer in layers.items():
        exactly = copy.deepcopy(layer).double()
        weight = layer.get_base_layer().weight.detach().double()
        delta = exactly.get_delta_weight("default").detach().double()
        exact = weight * (1 + delta) if name == "hira" else weight + delta
        expected[path.removeprefix("base_model.model.")] = exact.to(torch.bfloat16)
    assert len(expected) == 4
    merged, rounding = merge(model)
    for path, weight in expected.items():
        assert torch.equal(merged.get_submodule(path).weight, weight)
    # torch rounds float64 to float32 on the way: by up to 2**-16 of half a step of bfloat16.
    assert 0.5 < rounding.largest_share <= 1 + 2**-15


def test_layers_of_llama_3_8b_are_merged_within_one_rounding():
    """One decoder layer's q_proj (4096 x 4096) and v_proj (1024 x 4096), and nothing else big."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 4096, "intermediate_size": 8, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 8}
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    base = LlamaForCausalLM(LlamaConfig(**sizes, **heads))
    torch.set_default_dtype(before)
    config = TeraConfig(target_modules=TARGETS, init_weights=False, scaling=0.02)
    _, rounding = merge(peft.get_peft_model(base, config))
    assert rounding.layers == 2
    assert rounding.largest_share <= 1 + 2**-15
