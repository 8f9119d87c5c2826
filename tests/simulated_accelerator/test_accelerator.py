"""The simulated accelerator refuses what a real one does, and how often a step waits for it."""

from itertools import pairwise

import peft
import pytest
import torch
import yaml
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM

from tera_pl.adapters import TeraConfig
from tera_pl.analysis.delta_weights import layer_delta_weight, layer_singular_values
from tera_pl.callbacks import ResourceMonitor
from tera_pl.cli import lightning_cli, main
from tera_pl.models.backbone import add_adapter
from tera_pl.tensor import full_float32, network
from tests.simulated_accelerator import (
    DEVICE,
    NAME,
    DeviceTensor,
    Simulation,
    WrongDeviceError,
    register,
)


@pytest.fixture
def simulation():
    with Simulation() as simulation:
        yield simulation


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda x: x + torch.ones(4), "tensors on lazy:0 and on cpu"),
        (lambda x: torch.nn.functional.linear(torch.ones(2, 4), x), "on lazy:0 and on cpu"),
        (lambda x: torch.cat([x, torch.ones(1, 4)]), "tensors on lazy:0 and on cpu"),
        (lambda x: x.uniform_(generator=torch.Generator()), "a generator of the CPU"),
        (lambda x: x.numpy(), "numpy"),
    ],
    ids=["sum", "product", "cat", "generator", "numpy"],
)
def test_device_refuses(act, message, simulation):
    with pytest.raises((WrongDeviceError, RuntimeError), match=message):
        act(torch.ones(3, 4, device=DEVICE))


@pytest.mark.parametrize(
    ("act", "waits"),
    [
        (lambda x: x.sum().item(), 1),
        (lambda x: float(x.sum()), 1),
        (lambda x: bool(x.any()), 1),
        (lambda x: x.tolist(), 1),
        (lambda x: x.cpu(), 1),
        (lambda x: x.nonzero(), 1),
        (lambda x: x[x > 0], 1),
        (lambda x: torch.equal(x, x), 1),
        (lambda x: torch.tensor([1.0], device=DEVICE), 1),
        (lambda x: torch.ones(2).to(DEVICE), 1),
        (lambda x: torch.ones(2).to(DEVICE, non_blocking=True), 0),
        (lambda x: x[torch.zeros(2, dtype=torch.long, device=DEVICE)], 0),
        (lambda x: (x @ x.T).softmax(-1).sum() * 2, 0),
        (lambda x: torch.zeros(2, device=DEVICE), 0),
    ],
)
def test_what_waits_for_the_device(act, waits, simulation):
    x = torch.randn(3, 4, device=DEVICE)
    act(x)
    assert len(simulation.waits) == waits


@pytest.mark.parametrize("recompute", [False, True])
def test_training_on_the_device_is_that_on_the_cpu(recompute, simulation):
    found = []
    for device in (torch.device("cpu"), DEVICE):
        torch.manual_seed(0)
        layers = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        before = dict(layers.named_parameters())
        layers.to(device)
        assert all(p is before[name] for name, p in layers.named_parameters())
        assert isinstance(layers[0].weight, DeviceTensor) == (device == DEVICE)
        optimizer = torch.optim.AdamW(layers.parameters(), lr=0.1)
        for _ in range(3):
            x = torch.randn(5, 4).to(device)
            out = checkpoint(layers, x, use_reentrant=False) if recompute else layers(x)
            optimizer.zero_grad()
            out.square().mean().backward()
            optimizer.step()
        found.append([p.detach().cpu() for p in layers.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


@pytest.mark.parametrize(
    "config",
    [
        peft.VeraConfig(r=8, target_modules=["q_proj", "v_proj"]),
        peft.RandLoraConfig(r=8, target_modules=["q_proj", "v_proj"]),
        TeraConfig(target_modules=["q_proj", "v_proj"], core_init="rademacher"),
    ],
    ids=lambda config: type(config).__name__,
)
def test_adapter_is_that_of_the_cpu_where_lightning_builds_models(
    config, tiny_backbone, simulation
):
    """Frozen projections too: `export` and plain `peft` draw them on the CPU."""
    adapted = []
    for device in (torch.device("cpu"), DEVICE):
        torch.manual_seed(0)
        base = AutoModelForCausalLM.from_pretrained(tiny_backbone).to(device)
        with device:
            adapted.append(add_adapter(base, config))
        tensors = [*adapted[-1].named_parameters(), *adapted[-1].named_buffers()]
        assert all(tensor.device == device for _, tensor in tensors)
    on_cpu, on_device = ([*model.named_parameters(), *model.named_buffers()] for model in adapted)
    for (name, expected), (other, found) in zip(on_cpu, on_device, strict=True):
        assert name == other
        assert torch.equal(found.cpu(), expected), name


@pytest.fixture
def config(tiny_config, monkeypatch):
    monkeypatch.chdir(tiny_config.parent)
    register()
    content = yaml.safe_load(tiny_config.read_text())
    content["model"]["init_args"]["backbone"] |= {
        "dtype": "bfloat16",
        "attn_implementation": "packed_sdpa",
    }
    content["trainer"] |= {
        "accelerator": NAME,
        "strategy": NAME,
        "max_steps": 6,
        "val_check_interval": 6,
        "log_every_n_steps": 50,
        "gradient_clip_val": 1.0,
        "enable_progress_bar": True,
    }
    path = tiny_config.parent / "accelerator.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


@pytest.mark.slow
def test_step_waits_for_the_device_once_and_multiplies_as_set(config, monkeypatch, simulation):
    """The one wait is the look at the loss that keeps a NaN from the weights."""
    places, flags, kept = [], [], []
    monkeypatch.setattr(lightning_cli, "keep_freed_memory", lambda: kept.append(True))

    def start(self, trainer, module, batch, index):
        self._batch_start = 0.0
        places.append(len(simulation.waits))
        flags.append(torch.get_float32_matmul_precision())

    monkeypatch.setattr(ResourceMonitor, "on_train_batch_start", start)
    torch.set_float32_matmul_precision("highest")
    assert main(["fit", "--config", config]) == 0
    assert flags == ["high"] * 6
    assert kept == []
    assert torch.get_float32_matmul_precision() == "highest"
    # The first two have the precision guard's and the optimizer's first steps.
    steps = [simulation.waits[a:b] for a, b in pairwise(places[2:])]
    assert [[(op, place.split()[-1]) for op, place in step] for step in steps] == [
        [("aten._to_copy.default from the device", "training_step")]
    ] * 3


def test_products_are_in_full_where_results_are_kept(tiny_backbone, monkeypatch):
    seen = []
    inner = network.build_delta_weight

    def record(*args):
        seen.append(torch.get_float32_matmul_precision())
        return inner(*args)

    monkeypatch.setattr(network, "build_delta_weight", record)
    base = AutoModelForCausalLM.from_pretrained(tiny_backbone)
    model = peft.get_peft_model(base, TeraConfig(target_modules=["q_proj"]))
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    torch.set_float32_matmul_precision("high")
    try:
        layer_delta_weight(layer)
        layer_singular_values(layer)
        layer.merge()
        layer.unmerge()
        layer.cache_delta_weight()
        assert set(seen) == {"highest"}
        assert torch.get_float32_matmul_precision() == "high"
        with full_float32():
            assert torch.get_float32_matmul_precision() == "highest"
    finally:
        torch.set_float32_matmul_precision("highest")
