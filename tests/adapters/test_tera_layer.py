"""A TeRA layer around particular base layers: half precision, hooks, trained, quantized."""

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from peft import get_peft_model
from peft.utils.quantization_utils import QuantizationBackend
from torch import Tensor, nn
from torch.nn import functional as F

from tera_pl.adapters import TeraConfig, model
from tera_pl.adapters import layer as common
from tera_pl.adapters.tera import TeraLayer, layer
from tera_pl.tensor import contract


def adapt(base: nn.Module, **settings: object) -> tuple[nn.Module, TeraLayer]:
    net = nn.Sequential(base)
    get_peft_model(net, TeraConfig(target_modules=["0"], **settings))
    return net, net[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_unmerge_restores_every_bit(dtype: torch.dtype, perturb: Callable) -> None:
    base = nn.Linear(30, 24).to(dtype)
    weight = base.weight.detach().clone()
    net, adapted = adapt(base)
    perturb(net)
    for _ in range(3):
        adapted.merge()
        assert not torch.equal(base.weight, weight)
        adapted.unmerge()
        assert torch.equal(base.weight, weight)
    assert adapted._weight_before_merge is None


def test_merge_rounds_once(perturb: Callable) -> None:
    base = nn.Linear(30, 24).to(torch.bfloat16)
    weight = base.weight.detach().clone()
    net, adapted = adapt(base)
    perturb(net)
    adapted.merge()
    exact = weight.float() + adapted.get_delta_weight("default")
    assert torch.equal(base.weight, exact.bfloat16())


def test_unmerge_after_a_move() -> None:
    base = nn.Linear(30, 24)
    weight = base.weight.detach().clone()
    net, adapted = adapt(base, init_weights=False)
    adapted.merge()
    net.double()
    adapted.unmerge()
    assert torch.equal(base.weight, weight.double())


def test_safe_merge_leaves_the_weight_alone() -> None:
    base = nn.Linear(30, 24)
    weight = base.weight.detach().clone()
    _, adapted = adapt(base)
    adapted.tera_vectors["default"][0].data[1] = float("nan")
    with pytest.raises(ValueError, match=r"NaNs detected in the merged weights\. The adapter def"):
        adapted.merge(safe_merge=True)
    assert torch.equal(base.weight, weight)
    assert not adapted.merged


def test_vectors_near_one_are_not_rounded_to_the_type_of_the_base() -> None:
    _, adapted = adapt(nn.Linear(30, 24).to(torch.bfloat16), init_weights=False)
    before = adapted.get_delta_weight("default")
    adapted.tera_vectors["default"][0].data *= 1 + 2**-12  # vanishes between steps of bfloat16
    after = adapted.get_delta_weight("default")
    # Sums of dozens of float32 terms: some 2^-24 each, far from 2^-12.
    error = (after - before * (1 + 2**-12)).norm()
    assert error <= 2**-20 * before.norm()


def test_hooks_of_the_base_layer_are_called() -> None:
    base = nn.Linear(30, 24)
    net, _ = adapt(base, init_weights=False)
    x = torch.randn(4, 30)
    expected = net(x)
    seen = []
    base.register_forward_hook(lambda module, args, output: seen.append(output))
    torch.testing.assert_close(net(x), expected)
    assert len(seen) == 1


def test_a_base_weight_that_is_trained_too_has_its_gradient() -> None:
    base = nn.Linear(30, 24, dtype=torch.float64)
    net, adapted = adapt(base, init_weights=False, compute="materialized")
    base.requires_grad_(True)
    x = torch.randn(4, 30, dtype=torch.float64)
    net(x).sum().backward()
    torch.testing.assert_close(base.weight.grad, x.sum(0).expand(24, 30))
    assert all(vector.grad is not None for vector in adapted.tera_vectors["default"])


def test_dropout_acts_on_the_update_and_in_training_only() -> None:
    base = nn.Linear(30, 24)
    net, adapted = adapt(base, init_weights=False, dropout=0.5)
    x = torch.ones(64, 30)
    torch.manual_seed(0)
    net.train()
    kept = torch.nn.functional.dropout(x, 0.5)
    torch.manual_seed(0)
    delta = adapted.get_delta_weight("default")
    torch.testing.assert_close(net(x), base(x) + kept @ delta.T)
    net.eval()
    torch.testing.assert_close(net(x), base(x) + x @ delta.T)


@pytest.mark.parametrize("compute", ["factored", "materialized"])
def test_autocast(compute: str) -> None:
    net, adapted = adapt(nn.Linear(30, 24), init_weights=False, compute=compute)
    x = torch.randn(4, 30)
    expected = net(x)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = net(x)
        outputs.float().sum().backward()
    assert outputs.dtype == torch.bfloat16
    # A few roundings to bfloat16 (2^-9 each) in sums of 30 terms.
    assert (outputs - expected).norm() <= 8 * 2**-9 * expected.norm()
    assert all(v.grad.dtype == torch.float32 for v in adapted.tera_vectors["default"])


class Int8Linear(nn.Module):
    """Stands for a quantized layer: 8-bit weights with one scale per row."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        self.store(linear.weight.data)

    def store(self, weight: Tensor) -> None:
        self.scale = weight.abs().amax(1, keepdim=True) / 127
        quantized = (weight / self.scale).round().to(torch.int8)
        self.weight = nn.Parameter(quantized, requires_grad=False)

    def dequantized(self) -> Tensor:
        return self.weight * self.scale

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.dequantized().to(x.dtype), self.bias)


class Int8Backend(QuantizationBackend):
    supports_merge = True
    layer_type = "linear"

    def get_base_weight(self, base_layer: nn.Module) -> Tensor:
        return base_layer.dequantized()

    def set_base_weight(self, peft_layer: nn.Module, weight_data: Tensor) -> None:
        peft_layer.get_base_layer().store(weight_data)


def test_quantized_base(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(base: nn.Module, **kwargs: object) -> QuantizationBackend | None:
        return Int8Backend() if isinstance(base, Int8Linear) else None

    monkeypatch.setattr(common, "resolve_quantization_backend", resolve)
    monkeypatch.setattr(model, "resolve_quantization_backend", resolve)
    base = Int8Linear(nn.Linear(30, 24))
    weight = base.weight.clone()
    net, adapted = adapt(base, init_weights=False)
    network = adapted.get_tensor_network("default")
    assert network.core.dtype == torch.float32
    x = torch.randn(4, 30)
    delta = adapted.get_delta_weight("default")
    expected = base(x) + x @ delta.T
    torch.testing.assert_close(net(x), expected)
    adapted.merge(safe_merge=True)
    # Each weight is off by half a step at most, which is its row's largest weight / 127.
    step = (base.scale * 0.5).T
    assert ((net(x) - expected).abs() <= x.abs().sum(1, keepdim=True) * step * (1 + 1e-4)).all()
    adapted.unmerge()
    assert torch.equal(base.weight, weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_cached_delta_weight_gives_the_same_and_leaves_the_base(
    dtype: torch.dtype, dropout: float, perturb: Callable
) -> None:
    base = nn.Linear(30, 24).to(dtype)
    weight = base.weight.detach().clone()
    net, adapted = adapt(base, dropout=dropout)
    perturb(net)
    net.eval()
    x = torch.randn(7, 5, 30, dtype=dtype)
    with torch.no_grad():
        expected = net(x)
        adapted.cache_delta_weight()
        cached = net(x)
        adapted.clear_cached_delta_weight()
        after = net(x)
    # Sums of 30 products, of weights and of an update of like size, rounded to the type.
    bound = 30 * torch.finfo(dtype).eps * 2 * expected.abs().max()
    assert (cached - expected).abs().max() <= bound
    assert not torch.equal(expected, base(x))
    assert torch.equal(after, expected)
    assert torch.equal(base.weight, weight)


def test_cached_delta_weight_costs_one_product(
    monkeypatch: pytest.MonkeyPatch, perturb: Callable
) -> None:
    net, adapted = adapt(nn.Linear(30, 24))
    perturb(net)
    adapted.cache_delta_weight()
    calls = []
    linear = F.linear
    monkeypatch.setattr(F, "linear", lambda *args: calls.append(args[1].shape) or linear(*args))
    monkeypatch.setattr(layer, "apply_linear", None)
    with torch.no_grad():
        net(torch.randn(2, 30))
    assert calls == [(24, 30)]


def test_cached_delta_weight_is_that_of_its_adapter(perturb: Callable) -> None:
    net, adapted = adapt(nn.Linear(30, 24), init_weights=False)
    peft_model = get_peft_model(
        net, TeraConfig(target_modules=["0"], init_weights=False, seed=1), "b"
    )
    x = torch.randn(3, 30)
    adapted.set_adapter("default")
    adapted.cache_delta_weight()
    with torch.no_grad():
        adapted.set_adapter("b")
        other = adapted(x)
        adapted.clear_cached_delta_weight()
        assert torch.equal(other, adapted(x))
    assert peft_model is not None
    adapted.cache_delta_weight()
    adapted.merge()
    merged = adapted(x)
    assert torch.equal(merged, adapted.base_layer(x))


def test_network_follows_its_tensors_and_settings_and_goes_with_its_adapter() -> None:
    net = nn.Sequential(nn.Linear(30, 24))
    tuned = get_peft_model(net, TeraConfig(target_modules=["0"], init_weights=False))
    adapted = net[0]
    first = adapted.get_tensor_network("default")
    assert adapted.get_tensor_network("default") is first  # as in every step of a training
    net.double()
    moved = adapted.get_tensor_network("default")
    assert moved.core.dtype == torch.float64
    assert [id(v) for v in moved.vectors] == [id(v) for v in adapted.tera_vectors["default"]]
    adapted.configs["default"].scaling = 2.0
    assert torch.equal(adapted.get_delta_weight("default"), 2 * contract(moved))
    adapted.tera_vectors["default"][0] = nn.Parameter(torch.zeros(4, dtype=torch.float64))
    assert not adapted.get_delta_weight("default").any()
    frozen = adapted.tera_frozen["default"].core
    file = torch.ones_like(frozen.value)
    frozen.replace(file)
    assert torch.equal(adapted.get_tensor_network("default").core, file)
    core = weakref.ref(adapted.get_tensor_network("default").core)
    tuned.add_adapter("second", TeraConfig(target_modules=["0"], seed=1))
    tuned.delete_adapter("default")
    del frozen, first, moved
    gc.collect()
    assert core() is None
