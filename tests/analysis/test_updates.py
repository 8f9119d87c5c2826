"""The update of a layer is what the adapter adds to its output, for every method."""

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from tera_pl.adapters import TeraConfig
from tera_pl.analysis import iter_updates

CONFIGS = {
    "tera": TeraConfig(target_modules=["q_proj", "v_proj"], init_weights=False),
    "lora": peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False),
    "hira": peft.HiraConfig(r=2, target_modules=["q_proj", "v_proj"], init_weights=False),
    "vera": peft.VeraConfig(r=4, target_modules=["q_proj", "v_proj"], init_weights=False),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_update_explains_the_difference_to_the_base(name, tiny_backbone):
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(tiny_backbone)
    model = peft.get_peft_model(base, CONFIGS[name]).eval()
    updates = dict(iter_updates(model))
    assert len(updates) == 4
    for layer_name, update in updates.items():
        layer = model.get_submodule(f"base_model.model.{layer_name}")
        inputs = torch.randn(3, layer.in_features)
        with torch.no_grad():
            difference = layer(inputs) - layer.get_base_layer()(inputs)
        assert update.abs().max() > 0
        torch.testing.assert_close(inputs @ update.T, difference, rtol=1e-4, atol=1e-5)


def test_prompt_methods_have_no_update(tiny_backbone):
    base = AutoModelForCausalLM.from_pretrained(tiny_backbone)
    config = peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    assert not dict(iter_updates(peft.get_peft_model(base, config)))
