"""transformers' private names do what the project uses them for."""

import pytest
from transformers import AutoModelForCausalLM, LlamaConfig

from tera_pl.private_api.transformers import attention_implementation, unsplit_modules

SIZES = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "vocab_size": 8}


@pytest.mark.parametrize("name", ["eager", "sdpa"])
def test_names_are_those_of_the_model(name):
    config = LlamaConfig(**SIZES, num_hidden_layers=1)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=name)
    assert attention_implementation(model.config) == name
    layer = type(model.model.layers[0]).__name__
    assert unsplit_modules(model) == {layer}
