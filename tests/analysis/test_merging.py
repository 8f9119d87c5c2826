"""One definition of the weight update: what the adapted layer does to the identity matrix."""

import copy

import peft
import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from tera_pl.adapters.supported import inject
from tera_pl.analysis import iter_spectra
from tera_pl.analysis.delta_weights import adapted_layers, layer_delta_weight, layer_singular_values
from tera_pl.analysis.merging import check_mergeable, merge
from tera_pl.analysis.wider_dtype import largest_allowed_error, largest_difference, widened
from tera_pl.errors import RunStoppedError, UserError

TARGETS = ["q_proj", "v_proj"]
SIZES = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": 40}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
ON_LLAMA = {
    "lora": peft.LoraConfig(r=2),
    "lora_rank_stabilized": peft.LoraConfig(r=2, use_rslora=True),
    "lora_bias": peft.LoraConfig(r=2, lora_bias=True),
    "dora": peft.LoraConfig(r=2, use_dora=True),
    "pissa": peft.LoraConfig(r=2, init_lora_weights="pissa"),
    "olora": peft.LoraConfig(r=2, init_lora_weights="olora"),
    "hira": peft.HiraConfig(r=2),
    "ia3": peft.IA3Config(feedforward_modules=[]),
    "ia3_feedforward": peft.IA3Config(feedforward_modules=TARGETS),
    "oft": peft.OFTConfig(oft_block_size=4),
    "boft": peft.BOFTConfig(boft_block_size=4),
    "hra": peft.HRAConfig(r=4),
    "road": peft.RoadConfig(group_size=4),
    "miss": peft.MissConfig(r=4),
    "glora": peft.GloraConfig(r=4),
    "beft": peft.BeftConfig(),
    "delora": peft.DeloraConfig(r=4),
    "shira": peft.ShiraConfig(r=2),
}
ON_GPT2 = {
    "lora": peft.LoraConfig(r=2, fan_in_fan_out=True),
    "dora": peft.LoraConfig(r=2, fan_in_fan_out=True, use_dora=True),
    "ia3": peft.IA3Config(feedforward_modules=[], fan_in_fan_out=True),
    "vera": peft.VeraConfig(r=4, fan_in_fan_out=True),
}


def llama(config, dtype=torch.float32, *, bias=True):
    torch.manual_seed(0)
    base = LlamaForCausalLM(LlamaConfig(**SIZES, **HEADS, attention_bias=bias))
    with torch.no_grad():
        for name, parameter in base.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    return adapt(base.to(dtype), config, TARGETS)


def gpt2(config):
    torch.manual_seed(0)
    sizes = {"n_embd": 24, "n_layer": 1, "n_head": 2, "vocab_size": 40, "n_positions": 32}
    return adapt(GPT2LMHeadModel(GPT2Config(**sizes)), config, ["c_attn"])


def adapt(base, config, targets):
    config = copy.deepcopy(config)
    config.target_modules, config.task_type = set(targets), "CAUSAL_LM"
    model = inject(base, config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.rand_like(parameter), alpha=0.1)
    return model


@torch.no_grad()
def applied_to_identity(layer):
    """What the adapted layer does to every unit vector, in float64: its weight, transposed."""
    layer = copy.deepcopy(layer).double()
    identity = torch.eye(layer.in_features, dtype=torch.float64)
    return (layer(identity) - layer(torch.zeros_like(identity))).T


@pytest.mark.parametrize("name", ON_LLAMA)
def test_update_is_what_the_layer_does_less_the_pretrained_weight(name):
    pretrained = dict(llama(peft.BeftConfig()).get_base_model().named_modules())
    model = llama(ON_LLAMA[name])
    layers = adapted_layers(model)
    assert len(layers) == 4
    for place, layer in layers.items():
        before = pretrained[place].get_base_layer().weight.detach().double()
        expected = applied_to_identity(layer) - before
        update = layer_delta_weight(layer)
        assert update.dtype == torch.float32
        # PiSSA and OLoRA take out of a float32 weight what they add: one rounding of it.
        torch.testing.assert_close(update.double(), expected, rtol=1e-6, atol=1e-7)
        values = layer_singular_values(layer).double()
        exact = torch.linalg.svdvals(expected)
        torch.testing.assert_close(values, exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ON_GPT2)
def test_update_of_a_transposed_weight(name):
    (layer,) = adapted_layers(gpt2(ON_GPT2[name])).values()
    before = layer.get_base_layer().weight.detach().double().T
    expected = applied_to_identity(layer) - before
    assert expected.shape == (72, 24)
    torch.testing.assert_close(layer_delta_weight(layer).double(), expected, rtol=1e-6, atol=1e-8)


def test_ranks_are_of_the_update_and_not_of_a_rotation():
    ranks = {name: {s.rank for _, s in iter_spectra(llama(ON_LLAMA[name]))} for name in ON_LLAMA}
    # Four reflections move a space of four dimensions.
    assert ranks["hra"] == {4}
    assert ranks["lora"] == ranks["lora_rank_stabilized"] == ranks["lora_bias"] == {2}
    # What training has added to A0 B0 of rank two.
    assert max(ranks["pissa"]) == max(ranks["olora"]) == 4
    assert ranks["beft"] == {0}


@torch.no_grad()
def logits(model):
    return model(input_ids=torch.arange(4, 28).reshape(2, 12), use_cache=False).logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ON_LLAMA)
def test_merged_models_are_within_the_bound(name, dtype):
    model = llama(ON_LLAMA[name], dtype)
    adapted = logits(model)
    with widened(model):
        exact = logits(model)
    assert exact.dtype == (torch.float32 if dtype is torch.bfloat16 else torch.float64)
    assert torch.equal(logits(model), adapted)
    merged, rounding = merge(model)
    assert rounding.layers == 4
    assert rounding.largest_share <= 1 + 2**-15
    error = largest_difference([logits(merged)], [exact])
    assert 0 < error <= 0.75 * largest_allowed_error([adapted], [exact], dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["lora", "hra", "oft", "ia3"])
def test_an_update_that_is_five_percent_too_large_is_found(name, dtype, monkeypatch):
    model = llama(ON_LLAMA[name], dtype)
    before = {n: p.clone() for n, p in model.named_parameters()}
    layer = next(iter(adapted_layers(model).values()))
    right = type(layer).merge

    def wrong(self, *args, **kwargs):
        base = self.get_base_layer()
        weight = base.weight.data.clone()
        right(self, *args, **kwargs)
        base.weight.data = weight + 1.05 * (base.weight.data - weight)

    monkeypatch.setattr(type(layer), "merge", wrong)
    with pytest.raises(RunStoppedError, match=r"merging model\.layers\.0\.self_attn\.q_proj would"):
        merge(model)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_update_that_is_rounded_twice_is_found(dtype, monkeypatch):
    model = llama(ON_LLAMA["lora"], dtype)
    coarse = {torch.float32: torch.bfloat16, torch.bfloat16: torch.float8_e4m3fn}[dtype]
    right = torch.Tensor.copy_

    def wrong(self, other):
        return right(self, other.to(coarse) if other.dtype is torch.float64 else other)

    monkeypatch.setattr(torch.Tensor, "copy_", wrong)
    with pytest.raises(RunStoppedError, match="halves of the step between neighbors"):
        merge(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_of_a_wrong_merge_are_beyond_the_bound(dtype):
    """As `get_delta_weight` of HRA was added once: the rotation itself instead of its update."""
    model = llama(peft.HRAConfig(r=4), dtype)
    adapted = logits(model)
    with widened(model):
        exact = logits(model)
    wrong = copy.deepcopy(model)
    with torch.no_grad():
        for layer in adapted_layers(wrong).values():
            base = layer.get_base_layer()
            rotation = layer.get_delta_weight("default")[: base.weight.shape[0]]
            base.weight += rotation.to(dtype)
    error = largest_difference([logits(wrong.unload())], [exact])
    assert error > largest_allowed_error([adapted], [exact], dtype)


def test_what_cannot_be_merged_is_one_line_before_any_weight():
    refused = {
        "no bias": (peft.BeftConfig(), "Base layer has no bias"),
        "router": (peft.LilyConfig(r=2), "not supported for Lily"),
    }
    for config, reason in refused.values():
        with torch.device("meta"):
            base = LlamaForCausalLM(LlamaConfig(**SIZES, **HEADS))
        config.target_modules, config.task_type = set(TARGETS), "CAUSAL_LM"
        with pytest.raises(UserError, match=reason):
            check_mergeable(inject(base, config))


def test_a_weight_that_two_layers_share_is_not_merged():
    base = LlamaForCausalLM(LlamaConfig(**SIZES, **HEADS, tie_word_embeddings=True))
    model = adapt(base, peft.LoraConfig(r=2), ["lm_head"])
    with pytest.raises(UserError, match="lm_head shares its weight with another layer"):
        check_mergeable(model)


def test_an_update_that_depends_on_the_input_is_none():
    model = llama(peft.LoraConfig(r=2))
    (_, layer), *_ = adapted_layers(model).items()
    layer.lora_A["default"] = nn.Sequential(layer.lora_A["default"], nn.ReLU())
    layer.lora_A["default"].weight = layer.lora_A["default"][0].weight
    with pytest.raises(UserError, match="the weight update depends on the input"):
        layer_delta_weight(layer)


def test_a_bias_that_the_model_has_no_place_for_is_not_merged():
    model = llama(peft.LoraConfig(r=2, lora_bias=True), bias=False)
    with pytest.raises(UserError, match="bias"):
        merge(model)
