"""The update of a layer is what the adapter adds to its output, for every method."""

import math

import numpy as np
import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from tera_pl.adapters import (
    LoraXsConfig,
    LorettaConfig,
    LotrConfig,
    MoraConfig,
    NolaConfig,
    TeraConfig,
)
from tera_pl.analysis import Spectrum, iter_delta_weights, iter_spectra, summarize
from tera_pl.analysis.delta_weights import (
    adapted_layers,
    layer_singular_values,
)

TARGETS = ["q_proj", "v_proj"]
CONFIGS = {
    "tera": TeraConfig(target_modules=TARGETS, init_weights=False),
    "tera_thin": TeraConfig(target_modules=TARGETS, ranks=[2, 3, 5], init_weights=False),
    "lora": peft.LoraConfig(r=2, target_modules=TARGETS, init_lora_weights=False),
    "lora_wide": peft.LoraConfig(r=30, target_modules=TARGETS, init_lora_weights=False),
    "dora": peft.LoraConfig(r=2, target_modules=TARGETS, init_lora_weights=False, use_dora=True),
    "hira": peft.HiraConfig(r=2, target_modules=TARGETS, init_weights=False),
    "vera": peft.VeraConfig(r=4, target_modules=TARGETS, init_weights=False),
    "ia3": peft.IA3Config(
        target_modules=[*TARGETS, "down_proj"],
        feedforward_modules=["down_proj"],
        init_ia3_weights=False,
    ),
    "road": peft.RoadConfig(group_size=4, target_modules=TARGETS, init_weights=False),
    "vblora": peft.VBLoRAConfig(r=2, num_vectors=8, vector_length=4, target_modules=TARGETS),
    "fourierft": peft.FourierFTConfig(n_frequency=30, target_modules=TARGETS),
    "c3a": peft.C3AConfig(block_size=4, target_modules=TARGETS),
    "unilora": peft.UniLoraConfig(r=2, theta_d_length=50, target_modules=TARGETS),
    "tinylora": peft.TinyLoraConfig(r=2, u=4, target_modules=TARGETS),
    "waveft": peft.WaveFTConfig(n_frequency=30, target_modules=TARGETS),
    "randlora": peft.RandLoraConfig(r=4, target_modules=TARGETS, init_weights=False),
    "mora": MoraConfig(r=2, target_modules=TARGETS, init_weights=False),
    "loretta": LorettaConfig(r=4, tensor_rank=2, target_modules=TARGETS, init_weights=False),
    "lora_xs": LoraXsConfig(r=5, target_modules=TARGETS, init_weights=False),
    "nola": NolaConfig(r=3, k=9, target_modules=TARGETS, init_weights=False),
    "lotr": LotrConfig(r=3, target_modules=TARGETS, init_weights=False),
}


def adapted(name, tiny_backbone):
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(tiny_backbone)
    model = peft.get_peft_model(base, CONFIGS[name]).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:  # none at its start
            parameter.data += 0.1 * torch.rand_like(parameter)
    return model


@pytest.mark.parametrize("name", CONFIGS)
def test_update_explains_the_difference_to_the_base(name, tiny_backbone):
    model = adapted(name, tiny_backbone)
    updates = dict(iter_delta_weights(model))
    assert len(updates) == (6 if name == "ia3" else 4)
    for layer_name, update in updates.items():
        layer = model.get_submodule(f"base_model.model.{layer_name}")
        inputs = torch.randn(3, layer.in_features)
        with torch.no_grad():
            difference = layer(inputs) - layer.get_base_layer()(inputs)
        assert update.abs().max() > 0
        torch.testing.assert_close(inputs @ update.T, difference, rtol=1e-4, atol=1e-5)


def test_update_of_road_turns_and_stretches_pairs_of_outputs(tiny_backbone):
    """DeltaW = (R - I) W, with R written out for groups of four outputs."""
    model = adapted("road", tiny_backbone)
    for name, update in iter_delta_weights(model):
        layer = model.get_submodule(f"base_model.model.{name}")
        weight = layer.get_base_layer().weight.detach()
        rotation = torch.zeros(len(weight), len(weight))
        angles, scales = layer.road_theta["default"], layer.road_alpha["default"]
        for pair, (angle, scale) in enumerate(zip(angles.tolist(), scales.tolist(), strict=True)):
            first = 4 * (pair // 2) + pair % 2
            second = first + 2
            cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
            rotation[first, first] = rotation[second, second] = cosine
            rotation[first, second], rotation[second, first] = -sine, sine
        expected = rotation @ weight - weight
        torch.testing.assert_close(update, expected, rtol=1e-5, atol=1e-6)


def test_a_bias_is_no_update_of_the_weight(tiny_backbone):
    base = AutoModelForCausalLM.from_pretrained(tiny_backbone)
    model = peft.get_peft_model(base, peft.BeftConfig(target_modules=TARGETS, init_weights=False))
    updates = dict(iter_delta_weights(model))
    assert len(updates) == 4
    assert not any(update.any() for update in updates.values())
    assert {spectrum.rank for _, spectrum in iter_spectra(model)} == {0}


@pytest.mark.parametrize("name", CONFIGS)
def test_singular_values_through_the_structure_are_those_of_the_update(name, tiny_backbone):
    model = adapted(name, tiny_backbone)
    updates, spectra = dict(iter_delta_weights(model)), dict(iter_spectra(model))
    for layer_name, layer in adapted_layers(model).items():
        values = layer_singular_values(layer)
        update = updates[layer_name].detach()
        expected = np.linalg.svd(update.double().numpy(), compute_uv=False)
        # Updates are computed in float32.
        tolerance = max(update.shape) * torch.finfo(torch.float32).eps * expected[0]
        np.testing.assert_allclose(values.numpy(), expected, rtol=0, atol=tolerance)
        assert spectra[layer_name].rank == np.linalg.matrix_rank(update.numpy())
        assert spectra[layer_name].max_rank == min(update.shape)


def test_ranks_of_rivals_are_those_of_their_structure(tiny_backbone):
    ranks = {
        name: {spectrum.rank for _, spectrum in iter_spectra(adapted(name, tiny_backbone))}
        for name in ("lora", "vera", "lotr", "loretta", "nola")
    }
    # The last core of LoRETTA's factor A is (tensor_rank, r): the smaller of both is the rank.
    assert ranks == {"lora": {2}, "vera": {4}, "lotr": {3}, "loretta": {2}, "nola": {3}}


@pytest.mark.parametrize("name", ["tera", "lora", "vera", "hira", "lotr"])
def test_nothing_learned_is_rank_zero_of_every_kind(name, tiny_backbone):
    model = adapted(name, tiny_backbone)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.zero_()
    for layer_name, spectrum in iter_spectra(model):
        layer = model.get_submodule(f"base_model.model.{layer_name}")
        full = min(layer.out_features, layer.in_features)
        assert spectrum == Spectrum(0, 0.0, 0.0, 0.0, 0.0, full, 0)


@pytest.mark.parametrize("name", CONFIGS)
def test_not_a_number_is_an_error_for_every_method(name, tiny_backbone):
    model = adapted(name, tiny_backbone)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.fill_(math.nan)
    layer = next(iter(adapted_layers(model).values()))
    with pytest.raises(ValueError, match="NaN or infinite entries"):
        layer_singular_values(layer)


def test_thin_products_are_never_multiplied_out(tiny_backbone, monkeypatch):
    for name in ("lora", "vera", "loretta", "lotr", "lora_xs", "nola"):
        model = adapted(name, tiny_backbone)
        for layer in adapted_layers(model).values():
            expected = summarize(layer.get_delta_weight("default")).rank

            def refuse(*args):
                raise AssertionError("multiplied out")

            monkeypatch.setattr(type(layer), "get_delta_weight", refuse)
            values = layer_singular_values(layer)
            monkeypatch.undo()
            assert (values > 1e-5 * values[0]).sum() == expected


def test_prompt_methods_have_no_update(tiny_backbone):
    base = AutoModelForCausalLM.from_pretrained(tiny_backbone)
    config = peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    assert not dict(iter_delta_weights(peft.get_peft_model(base, config)))
