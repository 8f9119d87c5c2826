"""NOLA against its formula in numpy, with its random matrices drawn by hashlib; sharing; errors."""

import hashlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn

from tera_pl.adapters import NolaConfig
from tera_pl.adapters.nola.layer import Basis, NolaLayer

QV = ["q_proj", "v_proj"]


def matrices(factor: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Uniform in [-1, 1] / sqrt(k), from the first words of SHAKE-256 over the key."""
    name = f"tera/1/{seed}/{factor}/0/{'x'.join(map(str, shape))}/0/uniform#0"
    digest = hashlib.shake_256(name.encode()).digest(4 * int(np.prod(shape)))
    unit = (np.frombuffer(digest, "<u4").astype(float) + 0.5) / 2**32
    return (2 * unit - 1).reshape(shape) / np.sqrt(shape[0])


def adapted(base: nn.Module, **settings) -> NolaLayer:
    config = NolaConfig(target_modules=["0"], **settings)
    return get_peft_model(nn.Sequential(base), config).base_model.model[0]


@pytest.mark.parametrize(("k", "r", "seed"), [(1, 1, 0), (7, 3, 5), (90, 8, 0)])
def test_update_is_the_papers(k, r, seed):
    """DeltaW = (sum_j beta_j B_j) (sum_i alpha_i A_i), times the scaling."""
    torch.manual_seed(0)
    layer = adapted(nn.Linear(9, 6), k=k, r=r, seed=seed, scaling=0.5)
    layer.nola_alpha["default"].data.normal_()
    layer.nola_beta["default"].data.normal_()
    alpha, beta = (
        side["default"].detach().double().numpy() for side in (layer.nola_alpha, layer.nola_beta)
    )
    a = sum(alpha[i] * matrices("A", (k, r, 9), seed)[i] for i in range(k))
    b = sum(beta[j] * matrices("B", (k, 6, r), seed)[j] for j in range(k))
    expected = 0.5 * b @ a
    found = layer.get_delta_weight("default").detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    x = torch.randn(4, 9)
    update = layer(x) - layer.get_base_layer()(x)
    np.testing.assert_allclose(update.detach(), x.numpy() @ expected.T, atol=1e-5)


def test_start_is_loras():
    """B is zero, and the entries of A have the variance of a uniform start in 1 / sqrt(inputs)."""
    layer = adapted(nn.Linear(400, 6), k=30, r=50)
    left, right = layer.get_delta_factors("default")
    assert torch.count_nonzero(left) == 0
    assert right.var().item() == pytest.approx(1 / (3 * 400), rel=0.05)


def bases(model: nn.Module) -> set[Basis]:
    return {module for module in model.modules() if isinstance(module, Basis)}


def test_matrices_are_held_once_for_each_size_in_float32(llama: Callable):
    model = get_peft_model(llama(torch.bfloat16), NolaConfig(target_modules=QV, k=5, r=2))
    assert sorted(tuple(b.value.shape) for b in bases(model)) == [
        (5, 2, 24),
        (5, 12, 2),
        (5, 24, 2),
    ]
    before = {basis: basis.value.clone() for basis in bases(model)}
    model.to(torch.bfloat16).half()
    assert bases(model) == before.keys()
    assert all(torch.equal(basis.value, value) for basis, value in before.items())
    assert {basis.value.dtype for basis in bases(model.double())} == {torch.float64}
    assert not any("bases" in name for name in model.state_dict())


def test_another_base_or_setting_is_refused(tmp_path):
    """The coefficients alone would fit a base of any size."""
    config = NolaConfig(target_modules=["0"], k=5, r=2)
    get_peft_model(nn.Sequential(nn.Linear(9, 6)), config).save_pretrained(tmp_path)
    PeftModel.from_pretrained(nn.Sequential(nn.Linear(9, 6)), tmp_path)
    for outputs, change in ((7, {}), (6, {"seed": 1}), (6, {"r": 3})):
        config = PeftConfig.from_pretrained(tmp_path)
        vars(config).update(change)
        with pytest.raises(ValueError, match=r"frozen_sha256: .* sizes of the base model"):
            PeftModel.from_pretrained(nn.Sequential(nn.Linear(9, outputs)), tmp_path, config=config)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("save_frozen", [False, True])
def test_a_trained_adapter_is_loaded_to_the_bit(save_frozen, dtype, llama: Callable, tmp_path):
    ids = torch.tensor([[3, 7, 1, 30, 12]])
    config = NolaConfig(target_modules=QV, k=9, r=2, save_frozen=save_frozen)
    model = get_peft_model(llama(dtype), config)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    fresh = model(ids).logits
    for _ in range(3):
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    expected = model(ids).logits
    assert not torch.equal(expected, fresh)
    model.save_pretrained(tmp_path)
    torch.manual_seed(9)
    assert torch.equal(PeftModel.from_pretrained(llama(dtype), tmp_path)(ids).logits, expected)


def test_cached_factors_give_the_same_bits_without_the_matrices():
    torch.manual_seed(0)
    layer = adapted(nn.Linear(9, 6), k=7, r=3, init_weights=False)
    x = torch.randn(4, 9)
    expected = layer(x)
    layer.cache_delta_weight()
    for basis in bases(layer):
        basis.value.zero_()
    assert torch.equal(layer(x), expected)
    layer.clear_cached_delta_weight()
    assert torch.equal(layer(x), layer.get_base_layer()(x))


def test_autocast_does_not_round_the_matrices():
    torch.manual_seed(0)
    layer = adapted(nn.Linear(9, 6), k=7, r=3, init_weights=False)
    expected = layer.get_delta_factors("default")
    with torch.autocast("cpu", torch.bfloat16):
        found = layer.get_delta_factors("default")
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("name", ["r", "k"])
def test_errors(name):
    with pytest.raises(ValueError, match=f"{name} is 0: expected a whole number of at least 1"):
        NolaConfig(**{name: 0})
