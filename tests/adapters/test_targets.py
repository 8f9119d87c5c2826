"""Target modules of every architecture without naming them."""

import peft
import pytest
import torch
from peft import get_peft_model
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as DEFAULTS
from transformers.pytorch_utils import Conv1D

from tera_pl.adapters import LorettaConfig, LotrConfig, MoraConfig, TeraConfig, choose_targets
from tera_pl.adapters.tera import TeraLayer
from tera_pl.errors import UserError
from tests.models.architectures import CONFIGS, tiny_model


def meta_model(name):
    with torch.device("meta"):
        return tiny_model(name, 50)


def adapted(model):
    return {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if type(module) is TeraLayer
    }


@pytest.mark.parametrize("name", sorted(CONFIGS.keys() & DEFAULTS.keys()))
def test_defaults_of_peft(name):
    config = TeraConfig()
    model = meta_model(name)
    assert choose_targets(model, config) is None
    expected = {"q_proj", "v_proj"} if name == "phi" else set(DEFAULTS[name])  # VeRA's for Phi
    assert adapted(get_peft_model(model, config)) == expected


@pytest.mark.parametrize("method", [TeraConfig, LorettaConfig, MoraConfig, LotrConfig])
@pytest.mark.parametrize("name", ["phi3", "smollm3", "olmo2", "granite", "glm4"])
def test_query_and_value_where_peft_has_no_default(name, method):
    config = method()
    line = choose_targets(meta_model(name), config)
    expected = ["qkv_proj"] if name == "phi3" else ["q_proj", "v_proj"]
    assert config.target_modules == set(expected)
    assert (
        line == f"target_modules: PEFT has no default for {name}: {', '.join(expected)} are adapted"
    )


def test_every_architecture_has_a_default():
    for name in CONFIGS:
        config = peft.LoraConfig()
        choose_targets(meta_model(name), config)
        assert config.target_modules or name in DEFAULTS


def test_a_method_that_adapts_something_else_names_what_there_is():
    message = "LNTuningConfig has no default for smollm3: .* linear layers down_proj, .*, v_proj"
    with pytest.raises(UserError, match=message):
        choose_targets(meta_model("smollm3"), peft.LNTuningConfig())


def test_targets_that_are_given_stay():
    prompts = peft.PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")
    assert choose_targets(meta_model("smollm3"), prompts) is None
    config = TeraConfig(target_modules=["o_proj"])
    assert choose_targets(meta_model("smollm3"), config) is None
    assert config.target_modules == {"o_proj"}


def test_all_linear_is_every_conv1d_of_gpt2_but_not_the_head():
    model = meta_model("gpt2")
    kinds = {name for name, module in model.named_modules() if isinstance(module, Conv1D)}
    found = get_peft_model(model, TeraConfig(target_modules="all-linear"))
    names = {
        name.removeprefix("base_model.model.")
        for name, module in found.named_modules()
        if type(module) is TeraLayer
    }
    assert names == kinds
    assert len(names) == 2 * 4
