"""Truncated weight updates compared with numpy; what LoRA cannot express is refused."""

import numpy as np
import peft
import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from tera_pl.adapters import TeraConfig
from tera_pl.analysis.delta_weights import adapted_layers
from tera_pl.analysis.low_rank import check_convertible, decompose, is_conv1d
from tera_pl.errors import UserError


def gpt2(config):
    """A GPT-2, whose layers are `Conv1D` with a bias, with trained-looking values."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "n_positions": 16, "n_embd": 24, "n_layer": 1, "n_head": 2}
    model = peft.get_peft_model(GPT2LMHeadModel(GPT2Config(**sizes)), config).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter)
    return model


def test_factors_energies_and_ranks_are_those_of_numpy():
    model = gpt2(TeraConfig(target_modules=["c_attn"], out_modes=2))
    check_convertible(model)
    assert is_conv1d(model)
    ((_, layer),) = adapted_layers(model).items()
    delta = layer.get_delta_weight("default").detach().double().numpy()  # 72 x 24
    left, values, right = np.linalg.svd(delta, full_matrices=False)
    found = decompose(layer, 24)
    squares = values**2
    for rank in (1, 5, 24):
        outer, inner = (factor.double().numpy() for factor in found.factors(rank))
        assert (outer.shape, inner.shape) == ((72, rank), (rank, 24))
        best = (left[:, :rank] * values[:rank]) @ right[:rank]
        np.testing.assert_allclose(outer @ inner, best, atol=1e-5 * values[0])
        share = squares[:rank].sum() / squares.sum()
        np.testing.assert_allclose(found.energy(rank), share, rtol=1e-6)
    for energy in (0.3, 0.9, 0.999):
        rank = found.rank_for(energy)
        assert squares[:rank].sum() >= energy * squares.sum()
        assert squares[: rank - 1].sum() < energy * squares.sum()
    assert found.rank_for(1.0) == 24
    # A rank above that of the matrix, for a layer beside larger ones.
    outer, inner = found.factors(30)
    assert (outer.shape, inner.shape) == ((72, 30), (30, 24))
    np.testing.assert_allclose((outer @ inner).numpy(), delta, atol=1e-5 * values[0])


def test_weight_update_of_zero_needs_one_term_and_keeps_everything():
    model = gpt2(peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True))
    ((_, layer),) = adapted_layers(model).items()
    nn.init.zeros_(layer.lora_B["default"].weight)
    found = decompose(layer, 24)
    assert (found.rank_for(0.99), found.energy(1)) == (1, 1.0)


REFUSED = {
    "PROMPT_TUNING changes no weight matrix": peft.PromptTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=2
    ),
    "transformer.wte is of type Embedding": peft.LoraConfig(r=2, target_modules=["wte", "c_attn"]),
    r"LORA trains .*bias .1 such": peft.LoraConfig(
        r=2, target_modules=["c_attn"], bias="lora_only", fan_in_fan_out=True
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_more_than_weight_updates_of_linear_layers_is_refused(message):
    with pytest.raises(UserError, match=message):
        check_convertible(gpt2(REFUSED[message]))


def test_adapter_that_changes_a_bias_is_refused():
    model = gpt2(peft.IA3Config(target_modules=["c_attn"], feedforward_modules=[]))
    check_convertible(model)
    ((_, layer),) = adapted_layers(model).items()
    with torch.no_grad():
        layer.base_layer.bias.fill_(0.5)
    with pytest.raises(UserError, match="changes the bias"):
        decompose(layer, 24)
