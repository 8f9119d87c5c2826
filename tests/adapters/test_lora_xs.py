"""LoRA-XS against its formula in numpy, and its errors."""

import numpy as np
import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn

from tera_pl.adapters import LoraXsConfig
from tera_pl.adapters.lora_xs.layer import LoraXsLayer
from tera_pl.models.fingerprint import fingerprint_frozen

SVD = torch.linalg.svd


def turned(*args, **kwargs):
    """Give other vectors, as another machine may where singular values are close."""
    u, s, v = SVD(*args, **kwargs)
    return u.roll(1, 1), s, v.roll(1, 0)


def adapted(base: nn.Module, **settings) -> LoraXsLayer:
    config = LoraXsConfig(target_modules=["0"], **settings)
    return get_peft_model(nn.Sequential(base), config).base_model.model[0]


def layer_of(outputs=6, **settings) -> LoraXsLayer:
    torch.manual_seed(0)
    return adapted(nn.Linear(9, outputs).double(), **settings)


@pytest.mark.parametrize("r", [1, 3, 6])
def test_update_is_the_papers(r):
    """DeltaW = U S R V^T, where each pair of vectors has the sign that the layer gives it."""
    layer = layer_of(r=r, init_weights=False, scaling=0.5)
    u, s, v = np.linalg.svd(layer.get_base_layer().weight.detach().numpy(), full_matrices=False)
    own = layer.loraxs_vectors["default"].right.numpy()
    assert (own[np.arange(r), np.abs(own).argmax(1)] > 0).all()
    signs = np.diag(np.sign((own * v[:r]).sum(1)))
    matrix = signs @ layer.loraxs_matrix["default"].detach().double().numpy() @ signs
    expected = 0.5 * u[:, :r] @ np.diag(s[:r]) @ matrix @ v[:r]
    found = layer.get_delta_weight("default").detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("outputs", [6, 13])
def test_identity_is_the_weight(outputs):
    layer = layer_of(outputs, r=min(9, outputs))
    matrix = layer.loraxs_matrix["default"]
    matrix.data.copy_(torch.eye(len(matrix)))
    weight = layer.get_base_layer().weight.detach()
    torch.testing.assert_close(layer.get_delta_weight("default"), weight)


def test_start_is_normal_and_small():
    torch.manual_seed(0)
    layer = adapted(nn.Linear(80, 80), r=80)
    assert layer.loraxs_matrix["default"].std().item() == pytest.approx(1e-5, rel=0.05)


def test_signs_do_not_depend_on_the_decomposition(monkeypatch):
    first = layer_of(r=4).loraxs_vectors["default"]

    def flipped(*args, **kwargs):
        u, s, v = SVD(*args, **kwargs)
        return -u, s, -v

    monkeypatch.setattr(torch.linalg, "svd", flipped)
    second = layer_of(r=4).loraxs_vectors["default"]
    assert torch.equal(first.left, second.left)
    assert torch.equal(first.right, second.right)


def test_a_loaded_adapter_has_the_vectors_of_its_file(tmp_path, monkeypatch):
    torch.manual_seed(0)
    config = LoraXsConfig(target_modules=["0"], r=4, init_weights=False)
    model = get_peft_model(nn.Sequential(nn.Linear(9, 6)), config)
    x = torch.randn(3, 9)
    expected = model(x)
    model.save_pretrained(tmp_path)
    monkeypatch.setattr(torch.linalg, "svd", turned)
    loaded = PeftModel.from_pretrained(nn.Sequential(model.unload()[0]), tmp_path)
    assert torch.equal(loaded(x), expected)


def test_a_checkpoint_is_bound_to_the_vectors(monkeypatch):
    """`fingerprint_frozen` is what checkpoints are compared by."""

    def fingerprint():
        torch.manual_seed(0)
        config = LoraXsConfig(target_modules=["0"], r=4)
        return fingerprint_frozen(get_peft_model(nn.Sequential(nn.Linear(9, 6)), config))

    first = fingerprint()
    assert fingerprint() == first
    monkeypatch.setattr(torch.linalg, "svd", turned)
    assert fingerprint() != first


def test_errors():
    with pytest.raises(ValueError, match=r"module 0: r is 7, .* so 6 singular values: give an r"):
        layer_of(r=7)
    with pytest.raises(ValueError, match="r is 0: expected a whole number of at least 1"):
        LoraXsConfig(r=0)
    with pytest.raises(ValueError, match=r"init_std is -1.0: expected a finite number"):
        LoraXsConfig(init_std=-1.0)
