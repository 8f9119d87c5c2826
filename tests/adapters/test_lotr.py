"""LoTR: its tensor train against the equation, the one copy of shared factors, its counts."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import PeftConfig, PeftModel, get_peft_model, inject_adapter_in_model
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.pytorch_utils import Conv1D

from tera_pl.adapters import LotrConfig
from tera_pl.adapters.lotr import LotrLayer
from tera_pl.adapters.lotr.layer import SharedFactors

QV = ["q_proj", "v_proj"]
R = 3
# The tiny Llama: q 24 -> 24, v 24 -> 12, in three layers.
TRAINED = R * (24 + 24) + R * (24 + 12) + 6 * R * R


def layers(model: nn.Module) -> dict[str, LotrLayer]:
    return {
        name.rpartition("layers.")[2]: module
        for name, module in model.named_modules()
        if isinstance(module, LotrLayer)
    }


def shared(model: nn.Module, adapter_name: str = "default") -> dict[str, SharedFactors]:
    return {name: layer.lotr_shared[adapter_name] for name, layer in layers(model).items()}


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def train(model: nn.Module, input_ids: Tensor, steps: int = 3) -> None:
    optimizer = torch.optim.AdamW(trained(model).values(), lr=0.01)
    for _ in range(steps):
        model(input_ids, labels=input_ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def make(base: nn.Module, **settings: Any) -> PeftModel:
    return get_peft_model(base, LotrConfig(**({"target_modules": QV, "r": R} | settings)))


def test_updates_are_slices_of_one_tensor_train() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Linear(5, 7) for _ in range(3))).double()
    get_peft_model(
        net, LotrConfig(target_modules=["0", "1", "2"], r=2, alpha=5, init_weights=False)
    )
    left, right = net[0].lotr_shared["default"].left, net[0].lotr_shared["default"].right
    cores = torch.stack([layer.lotr_core["default"] for layer in net])
    tensor = torch.zeros(3, 7, 5, dtype=torch.float64)
    for layer in range(3):
        for i in range(7):
            for j in range(5):
                for a in range(2):
                    for b in range(2):
                        tensor[layer, i, j] += 5 / 2 * left[i, a] * cores[layer, a, b] * right[b, j]
    for layer, expected in zip(net, tensor.detach(), strict=True):
        delta = layer.get_delta_weight("default")
        torch.testing.assert_close(delta, expected, rtol=0, atol=1e-13)
        assert torch.linalg.matrix_rank(delta) == 2


def test_starts_at_zero_with_normal_factors(llama: Callable, input_ids: Tensor) -> None:
    base = llama()
    expected = base(input_ids).logits
    model = make(base, r=12)
    assert torch.equal(model(input_ids).logits, expected)
    for factors in shared(model).values():
        for factor in (factors.left, factors.right):
            # 144 values at least: mean and variance within five of their standard errors.
            assert abs(factor.mean()) < 5 / 12
            assert abs(factor.var() - 1) < 5 * (2 / 144) ** 0.5
    assert all(not layer.lotr_core["default"].any() for layer in layers(model).values())
    model(input_ids, labels=input_ids).loss.backward()
    for layer in layers(model).values():
        assert layer.lotr_core["default"].grad.any()


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model,
        lambda model: model.to(torch.float64),
        lambda model: model.bfloat16(),
        copy.deepcopy,
        lambda model: copy.deepcopy(model).double(),
        lambda model: model.to("meta"),
        lambda model: model.requires_grad_(False).requires_grad_(True),
    ],
    ids=["as it is", "double", "bfloat16", "deepcopy", "deepcopy and double", "meta", "frozen"],
)
@pytest.mark.parametrize("inject", ["get_peft_model", "inject_adapter_in_model"])
def test_one_parameter_however_many_layers(llama: Callable, change: Callable, inject: str) -> None:
    config = LotrConfig(target_modules=QV, r=R)
    model = llama()
    if inject == "get_peft_model":
        model = get_peft_model(model, config)
    else:
        model = inject_adapter_in_model(config, model)
    model = change(model)
    assert len(layers(model)) == 6
    assert len({id(f.left) for f in shared(model).values()}) == 2
    assert len({id(f.right) for f in shared(model).values()}) == 2
    adapter = {name: p for name, p in model.named_parameters() if "lotr_" in name}
    assert len(adapter) == 4 + 6
    assert sum(p.numel() for p in adapter.values()) == TRAINED


def test_counted_once(llama: Callable) -> None:
    model = make(llama())
    assert sum(p.numel() for p in trained(model).values()) == TRAINED
    assert model.get_nb_trainable_parameters()[0] == TRAINED


def test_gradient_of_a_shared_factor_is_the_sum_over_its_layers(
    llama: Callable, input_ids: Tensor
) -> None:
    model = make(llama(torch.float64), target_modules=["q_proj"], init_weights=False)
    alone = copy.deepcopy(model)
    for layer in layers(alone).values():
        layer.lotr_shared["default"] = copy.deepcopy(layer.lotr_shared["default"])
    for one in (model, alone):
        one(input_ids, labels=input_ids).loss.backward()
    for name in ("left", "right"):
        (together,) = {id(f): getattr(f, name).grad for f in shared(model).values()}.values()
        parts = [getattr(f, name).grad for f in shared(alone).values()]
        assert len(parts) == 3
        # Short sums in float64 of values of size one.
        torch.testing.assert_close(together, sum(parts), rtol=1e-10, atol=1e-12)


def test_groups_of_one_shape_or_of_one_name(llama: Callable) -> None:
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "down_proj"]
    groups = {
        share: {
            frozenset(n.rpartition(".")[2] for n, f in found.items() if f is factors)
            for found in [shared(make(llama(), target_modules=targets, share=share))]
            for factors in found.values()
        }
        for share in ("shape", "name")
    }
    assert groups["shape"] == {
        frozenset({"q_proj", "o_proj"}),
        frozenset({"k_proj", "v_proj"}),
        frozenset({"down_proj"}),
    }
    assert groups["name"] == {frozenset({target}) for target in targets}


def test_conv1d_and_linear_of_one_shape_share() -> None:
    net = nn.ModuleDict({"a": nn.Linear(6, 4), "b": Conv1D(4, 6)})
    model = make(net, target_modules=["a", "b"])
    assert net["a"].lotr_shared["default"] is net["b"].lotr_shared["default"]
    assert model.get_nb_trainable_parameters()[0] == R * 10 + 2 * R * R


@pytest.mark.parametrize(
    ("dtype", "low_cpu_mem_usage"),
    # PEFT rounds every adapter to the type of the base when it loads with low_cpu_mem_usage.
    [(torch.float32, False), (torch.float32, True), (torch.bfloat16, False)],
    ids=str,
)
def test_trained_adapter_reloads_to_the_same_bits(
    llama: Callable,
    input_ids: Tensor,
    dtype: torch.dtype,
    low_cpu_mem_usage: bool,
    tmp_path,
    recwarn,
) -> None:
    model = make(llama(dtype))
    train(model, input_ids)
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert len(saved) == 4 + 6
    assert sum(value.numel() for value in saved.values()) == TRAINED
    assert all(value.dtype == torch.float32 for value in saved.values())
    torch.manual_seed(999)
    loaded = PeftModel.from_pretrained(
        llama(dtype), tmp_path, is_trainable=True, low_cpu_mem_usage=low_cpu_mem_usage
    )
    assert not [w for w in recwarn if "missing adapter keys" in str(w.message)]
    assert torch.equal(loaded(input_ids).logits, model(input_ids).logits)
    assert sum(p.numel() for p in trained(loaded).values()) == TRAINED
    train(model, input_ids)
    train(loaded, input_ids)
    assert torch.equal(loaded(input_ids).logits, model(input_ids).logits)


def test_a_state_of_trained_parameters_restores_all_layers(
    llama: Callable, input_ids: Tensor
) -> None:
    model, other = make(llama()), make(llama(), alpha=1.0)
    train(model, input_ids)
    state = {name: p.detach().clone() for name, p in trained(model).items()}
    other.load_state_dict(state, strict=False)
    assert torch.equal(other(input_ids).logits, model(input_ids).logits)


def test_config_survives_the_file(llama: Callable, tmp_path) -> None:
    make(llama(), alpha=4.0, share="name").save_pretrained(tmp_path)
    loaded = PeftConfig.from_pretrained(tmp_path)
    assert (loaded.peft_type, loaded.r, loaded.alpha, loaded.share) == ("LOTR", R, 4.0, "name")


def test_adapters_do_not_share_with_each_other(
    llama: Callable, input_ids: Tensor, tmp_path
) -> None:
    model = make(llama(), init_weights=False)
    model.add_adapter("second", LotrConfig(target_modules=QV, r=5, init_weights=False))
    first = {id(f) for f in shared(model).values()}
    second = {id(f) for f in shared(model, "second").values()}
    assert len(first) == len(second) == 2
    assert not first & second
    assert sum(p.numel() for p in trained(model).values()) == TRAINED
    outputs = {}
    for name in ("default", "second"):
        model.set_adapter(name)
        outputs[name] = model(input_ids).logits
    assert not torch.equal(outputs["default"], outputs["second"])
    model.save_pretrained(tmp_path)
    model.delete_adapter("default")
    assert torch.equal(model(input_ids).logits, outputs["second"])
    model.load_adapter(tmp_path, "again")
    model.set_adapter("again")
    assert torch.equal(model(input_ids).logits, outputs["default"])
    assert len({id(f) for f in shared(model, "again").values()}) == 2


def test_an_adapter_made_under_inference_mode_can_be_trained(
    llama: Callable, input_ids: Tensor
) -> None:
    model = llama()
    with torch.inference_mode():
        model = make(model)
        model(input_ids)
    model(input_ids, labels=input_ids).loss.backward()


LLAMA_2_7B = LlamaConfig()  # the library's defaults are this model
LLAMA_3_8B = LlamaConfig(vocab_size=128256, intermediate_size=14336, num_key_value_heads=8)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("llama_config", "settings", "trainable_params"),
    [
        (LLAMA_2_7B, {}, 8 * 8192 + 64 * 8**2),
        (LLAMA_2_7B, {"r": 64}, 64 * 8192 + 64 * 64**2),
        (LLAMA_2_7B, {"share": "name"}, 2 * 8 * 8192 + 64 * 8**2),
        (LLAMA_3_8B, {}, 8 * (4096 + 4096) + 8 * (4096 + 1024) + 64 * 8**2),
    ],
)
def test_trainable_parameters_on_llama(
    llama_config: LlamaConfig, settings: dict, trainable_params: int
) -> None:
    with torch.device("meta"):
        base = LlamaForCausalLM(llama_config)
    model = make(base, **({"r": 8} | settings))
    assert model.get_nb_trainable_parameters()[0] == trainable_params


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"r": -1}, r"r is -1: expected a whole number"),
        ({"share": "all"}, r"share is 'all': expected shape or name"),
        ({"dropout": -0.1}, r"dropout is -0.1"),
    ],
)
def test_invalid_settings_are_named(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LotrConfig(target_modules=QV, **settings)
