"""LoRETTA: its tensor trains against the equation, start and counts against the authors'."""

import math

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from tera_pl.adapters import LorettaConfig
from tera_pl.adapters.loretta.tensor_train import (
    OFFICIAL_MODES,
    contract_train,
    draw_cores,
    plan_train,
)

QV = ["q_proj", "v_proj"]


def adapt(base, **settings):
    net = nn.Sequential(base)
    get_peft_model(net, LorettaConfig(target_modules=["0"], **settings))
    return net, net[0]


def test_train_is_the_sum_over_its_ranks():
    torch.manual_seed(0)
    cores = [torch.randn(*shape).double() for shape in ((1, 2, 3), (3, 5, 4), (4, 3, 1))]
    expected = torch.zeros(2, 5, 3, dtype=torch.float64)
    for i in range(2):
        for j in range(5):
            for k in range(3):
                for a in range(3):
                    for b in range(4):
                        expected[i, j, k] += (
                            cores[0][0, i, a] * cores[1][a, j, b] * cores[2][b, k, 0]
                        )
    torch.testing.assert_close(contract_train(cores), expected.flatten(), rtol=0, atol=1e-12)


def test_update_is_the_product_of_the_reshaped_trains():
    settings = {"r": 3, "tensor_rank": 2, "alpha": 7.5, "in_modes": [5, 9], "out_modes": [6, 7]}
    net, layer = adapt(nn.Linear(15, 14).double(), init_weights=False, **settings)
    net.double()
    a1, a2 = layer.loretta_A["default"]
    b1, b2 = layer.loretta_B["default"]
    first = torch.einsum("xia,ajy->ij", a1, a2).reshape(15, 3)
    second = torch.einsum("xia,ajy->ij", b1, b2).reshape(3, 14)
    expected = 7.5 / 3 * torch.einsum("ir,ro->oi", first, second)
    torch.testing.assert_close(layer.get_delta_weight("default"), expected, rtol=0, atol=1e-12)
    x = torch.randn(2, 4, 15).double()
    torch.testing.assert_close(net(x), layer.base_layer(x) + x @ expected.T, rtol=0, atol=1e-12)


def test_official_start_has_entries_of_the_stated_size():
    """Each core is divided by the square root of its right rank: the variance is (in + r)^-1."""
    torch.manual_seed(0)
    draws = [contract_train(draw_cores((4, 3, 5), 6, rows=20, columns=3)) for _ in range(4000)]
    variance = torch.stack(draws).square().mean().item()
    # The mean over draws of a product of three sums: its relative deviation is below 2 %.
    assert variance == pytest.approx(1 / 23, rel=0.08)


def test_zero_start_has_a_gradient():
    net, layer = adapt(nn.Linear(15, 14), start="zero", r=2)
    assert not layer.get_delta_weight("default").any()
    net(torch.randn(3, 15)).sum().backward()
    assert layer.loretta_B["default"][-1].grad.any()


@pytest.mark.parametrize(("r", "dimension"), OFFICIAL_MODES)
def test_official_modes_make_the_dimension(r, dimension):
    assert math.prod(plan_train(dimension, r, None)) == r * dimension


@pytest.mark.parametrize("dimension", [3072, 11008, 14336, 13, 1])
def test_any_dimension_can_be_split(dimension):
    """The authors' table has none of these."""
    modes = plan_train(dimension, 8, None)
    assert math.prod(modes) == 8 * dimension
    assert len(modes) <= 5


@pytest.mark.parametrize(
    ("kv_heads", "r", "rank", "count"),
    [
        (32, 8, 5, 102_400),
        (32, 8, 8, 249_856),
        (32, 16, 8, 315_392),
        (32, 8, 10, 384_000),
        (8, 8, 5, 97_280),
        (8, 8, 8, 238_592),
        (8, 8, 10, 367_360),
    ],
)
def test_counts_on_real_shapes(kv_heads, r, rank, count):
    """Llama-2-7B (32 heads for v) and Llama-3-8B (8), q and v, with the authors' modes."""
    config = LlamaConfig(
        hidden_size=4096,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=kv_heads,
        intermediate_size=64,
        vocab_size=32,
    )
    with torch.device("meta"):
        base = LlamaForCausalLM(config)
    model = get_peft_model(base, LorettaConfig(target_modules=QV, r=r, tensor_rank=rank))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count


def test_norms_are_trained_and_saved_on_demand(llama, input_ids, tmp_path):
    settings = {"target_modules": QV, "r": 2, "tensor_rank": 2, "train_norms": True}
    model = get_peft_model(llama(), LorettaConfig(**settings))
    norms = {n: p for n, p in model.named_parameters() if "norm" in n and p.requires_grad}
    assert sum(p.numel() for p in norms.values()) == (2 * 3 + 1) * 24
    for parameter in norms.values():
        parameter.data.add_(0.25)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(llama(), tmp_path)
    with torch.no_grad():
        expected = model.eval()(input_ids).logits
        assert torch.equal(again.eval()(input_ids).logits, expected)
        with model.disable_adapter():
            assert not torch.equal(model(input_ids).logits, expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"r": 0}, "r is 0: expected a whole number of at least 1"),
        ({"tensor_rank": 0}, "tensor_rank is 0"),
        ({"start": "warm"}, "start is 'warm': expected official or zero"),
        ({"dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        LorettaConfig(**settings)


def test_modes_that_do_not_fit_name_the_module():
    with pytest.raises(ValueError, match=r"module 0: modes \[2, 2\] do not make a dimension"):
        adapt(nn.Linear(15, 14), in_modes=[2, 2])
