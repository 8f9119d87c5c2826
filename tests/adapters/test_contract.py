"""What every adapter of this project must do. A new one joins by a row in `ADAPTERS`."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tera_pl.adapters import (
    LoraXsConfig,
    LorettaConfig,
    LotrConfig,
    MoraConfig,
    NolaConfig,
    TeraConfig,
)

IN, OUT = 30, 24


@dataclass(frozen=True)
class Adapter:
    """A method with settings for a layer `IN -> OUT`."""

    name: str
    config: Callable[..., PeftConfig]
    prefix: str
    trained: int
    settings: dict[str, Any] = field(default_factory=dict)
    starts_at_zero: bool = True
    # Frozen values in its file, which depend on the base weight.
    stored: int = 0

    def __call__(self, **more: Any) -> PeftConfig:
        return self.config(target_modules=["adapted"], **(self.settings | more))


def tera(name: str, trained: int, **settings: Any) -> Adapter:
    return Adapter(f"TeRA {name}", TeraConfig, "tera_", trained, settings)


def loretta(name: str, trained: int, start: str = "zero", **settings: Any) -> Adapter:
    settings |= {"start": start}
    return Adapter(f"LoRETTA {name}", LorettaConfig, "loretta_", trained, settings, start == "zero")


def mora(name: str, trained: int, **settings: Any) -> Adapter:
    return Adapter(f"MoRA {name}", MoraConfig, "mora_", trained, settings)


def lotr(name: str, trained: int, **settings: Any) -> Adapter:
    return Adapter(f"LoTR {name}", LotrConfig, "lotr_", trained, settings)


def lora_xs(name: str, r: int, **settings: Any) -> Adapter:
    stored, at_zero = r * (IN + OUT), settings.get("init_std") == 0
    settings |= {"r": r}
    return Adapter(f"LoRA-XS {name}", LoraXsConfig, "loraxs_", r**2, settings, at_zero, stored)


def nola(name: str, k: int, **settings: Any) -> Adapter:
    return Adapter(f"NOLA {name}", NolaConfig, "nola_", 2 * k, settings | {"k": k})


ADAPTERS = [
    tera("out split", 4 + 6 + 30),
    tera("in split", 24 + 5 + 6, out_modes=1, in_modes=2),
    tera("both split", 4 + 6 + 5 + 6, in_modes=2),
    tera("neither split", 24 + 30, out_modes=1),
    tera("order 6", (2 + 3 + 4) + (2 + 3 + 5), out_modes=3, in_modes=3),
    tera("lists", (3 + 8) + (15 + 2), out_modes=[3, 8], in_modes=[15, 2]),
    tera("reduced ranks", 3 + 5 + 7, ranks=[3, 5, 7]),
    tera("identity", 4 + 6 + 30, factor_init="identity"),
    tera("kronecker", 4 + 6 + 30, factor_init="kronecker"),
    tera("kronecker core", 4 + 6 + 30, core_init="kronecker", factor_init="kronecker"),
    tera("rademacher", 4 + 6 + 30, core_init="rademacher", factor_init="rademacher"),
    tera("orthogonal", 4 + 6 + 30, core_init="orthogonal", factor_init="orthogonal"),
    tera("scaled", 4 + 6 + 30, scaling=2.5, zero_vector=1),
    tera("factored", 4 + 6 + 30, compute="factored"),
    tera("materialized", 4 + 6 + 30, compute="materialized"),
    # Modes 2 2 3 5 of 2 IN and 2 2 2 2 3 of 2 OUT, rank 3 between them.
    loretta("zero", (6 + 18 + 27 + 15) + (6 + 18 + 18 + 18 + 9), r=2, tensor_rank=3),
    loretta(
        "official", (6 + 18 + 27 + 15) + (6 + 18 + 18 + 18 + 9), "official", r=2, tensor_rank=3
    ),
    loretta("lists", (10 * 2 + 2 * 9) + 72, r=3, tensor_rank=2, in_modes=[10, 9], out_modes=1),
    mora("rotation", 10**2, r=2),
    mora("rotation, padded", 8**2, r_hat=8),
    mora("rotation, one chunk left out", 12**2, r_hat=12),
    mora("sharing", 12**2, r=3, form="sharing"),
    mora("sharing, odd and padded", 7**2, r_hat=7, form="sharing"),
    lotr("rank 3", 3 * (IN + OUT) + 3**2, r=3),
    lora_xs("paper's start", 4),
    lora_xs("zero, full, scaled", OUT, scaling=0.5, init_std=0.0),
    nola("few matrices", 6, r=3),
    nola("many matrices, scaled", 90, r=2, scaling=2.5, seed=1),
    lotr("scaled", 5 * (IN + OUT) + 5**2, r=5, alpha=2.5, share="name"),
]


class Net(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.before = nn.Linear(7, IN)
        if kind == "Conv1D":
            self.adapted = Conv1D(OUT, IN)
            nn.init.normal_(self.adapted.bias)
        else:
            self.adapted = nn.Linear(IN, OUT, bias=kind == "Linear")

    def forward(self, x: Tensor) -> Tensor:
        return self.adapted(self.before(x).tanh())


@pytest.fixture(params=ADAPTERS, ids=lambda adapter: adapter.name)
def adapter(request: pytest.FixtureRequest) -> Adapter:
    return request.param


@pytest.fixture(params=["Linear", "Linear without bias", "Conv1D"])
def net(request: pytest.FixtureRequest) -> Net:
    torch.manual_seed(0)
    return Net(request.param).double()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def close(actual: Tensor, expected: Tensor) -> None:
    # Sums of some dozens of terms of size one, in float64.
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def test_a_fresh_adapter_changes_nothing(adapter: Adapter, net: Net, x: Tensor) -> None:
    if not adapter.starts_at_zero:
        pytest.skip(f"{adapter.name} does not start at zero by its definition")
    expected = net(x)
    model = get_peft_model(net, adapter())
    assert torch.count_nonzero(net.adapted.get_delta_weight("default")) == 0
    close(model(x), expected)


def test_output_is_base_plus_delta_weight(
    adapter: Adapter, net: Net, x: Tensor, perturb: Callable
) -> None:
    base = copy.deepcopy(net)
    model = get_peft_model(net, adapter())
    perturb(model)
    delta = net.adapted.get_delta_weight("default")
    assert delta.shape == (OUT, IN)
    assert delta.norm() > 0.1
    close(model(x), base(x) + base.before(x).tanh() @ delta.T)


def test_merged_output_is_the_same(
    adapter: Adapter, net: Net, x: Tensor, perturb: Callable
) -> None:
    kind = type(net.adapted)
    weight = net.adapted.weight.detach().clone()
    model = get_peft_model(net, adapter())
    perturb(model)
    expected = model(x)
    model.merge_adapter(safe_merge=True)
    close(model(x), expected)
    model.unmerge_adapter()
    assert torch.equal(net.adapted.get_base_layer().weight, weight)
    merged = model.merge_and_unload()
    assert type(merged.adapted) is kind
    assert not any(isinstance(module, BaseTunerLayer) for module in merged.modules())
    close(merged(x), expected)


def test_trains_exactly_its_own_parameters(adapter: Adapter, net: Net, x: Tensor) -> None:
    before = copy.deepcopy(net.state_dict())
    model = get_peft_model(net, adapter())
    assert all(adapter.prefix in name for name in trained(model))
    assert sum(p.numel() for p in trained(model).values()) == adapter.trained
    optimizer = torch.optim.SGD(trained(model).values(), lr=0.1)
    start = {name: p.detach().clone() for name, p in trained(model).items()}
    for _ in range(2):  # in the first step all but one vector have a gradient of zero
        model(x).square().sum().backward()
        optimizer.step()
    for name, parameter in trained(model).items():
        assert (parameter != start[name]).all(), name
    after = model.unload().state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_saved_and_loaded_adapter_gives_the_same_bits(
    adapter: Adapter, net: Net, x: Tensor, perturb: Callable, tmp_path
) -> None:
    base = copy.deepcopy(net)
    model = get_peft_model(net, adapter())
    perturb(model)
    state = get_peft_model_state_dict(model)
    assert sum(value.numel() for value in state.values()) == adapter.trained + adapter.stored
    model.save_pretrained(tmp_path)
    torch.manual_seed(12345)
    loaded = PeftModel.from_pretrained(base, tmp_path)
    assert torch.equal(loaded(x), model(x))


def test_frozen_values_do_not_depend_on_the_dtype_of_the_base(adapter: Adapter) -> None:
    if adapter.stored:
        pytest.skip(f"{adapter.name} has frozen values that are functions of the base weight")
    deltas = {}
    for dtype in (torch.float32, torch.bfloat16):
        net = Net("Linear").to(dtype)
        parameters = trained(get_peft_model(net, adapter())).values()
        for parameter in parameters:
            assert parameter.dtype == torch.float32
            parameter.data.fill_(0.5)
        deltas[dtype] = net.adapted.get_delta_weight("default")
        assert deltas[dtype].dtype == torch.float32
    # Each frozen tensor is rounded by half a step of bfloat16, 2^-9, at most.
    steps = len(parameters) + 1
    error = (deltas[torch.bfloat16] - deltas[torch.float32]).norm()
    assert error <= steps * 2**-9 * math.sqrt(2) * deltas[torch.float32].norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_leading_dimensions_and_dtype_pass_through(adapter: Adapter, dtype: torch.dtype) -> None:
    model = get_peft_model(Net("Linear").to(dtype), adapter())
    for leading in ((), (1,), (0,), (3, 2, 4)):
        outputs = model(torch.ones(*leading, 7, dtype=dtype))
        assert outputs.shape == (*leading, OUT)
        assert outputs.dtype == dtype
        outputs.float().sum().backward()
        assert all(p.grad is not None for p in trained(model).values())
        model.zero_grad(set_to_none=True)
