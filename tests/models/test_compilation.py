"""Compiled layers compute what the others do, and leave no trace in checkpoints and exports."""

import shutil

import peft
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from transformers import AutoModelForCausalLM

from tera_pl.__main__ import main as command
from tera_pl.adapters import TeraConfig
from tera_pl.cli import main
from tera_pl.errors import UserError
from tera_pl.models.backbone import Backbone
from tera_pl.models.compilation import compile_layers
from tera_pl.tasks import CausalLMTask

COMPILE = "--model.init_args.backbone.compile=true"
CHECKPOINTING = "--model.init_args.backbone.gradient_checkpointing=true"
PACKED = "--model.init_args.backbone.attn_implementation=packed_sdpa"


@pytest.fixture(autouse=True)
def _nothing_compiled():
    torch._dynamo.reset()


def make_layer(path, compute, dtype):
    """The adapted query projection of a first layer, with vectors that are not ones."""
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    config = TeraConfig(target_modules=["q_proj"], init_weights=False, compute=compute)
    model = peft.get_peft_model(base, config)
    return model.base_model.model.model.layers[0].self_attn.q_proj


def outputs_and_gradients(layer, call):
    generator = torch.Generator().manual_seed(1)
    shape = (2, 9, layer.in_features)
    inputs = torch.randn(shape, generator=generator).to(layer.get_base_layer().weight.dtype)
    inputs.requires_grad_()
    outputs = call(inputs)
    variables = [inputs, *layer.tera_vectors["default"]]
    return outputs, *torch.autograd.grad(outputs.float().sin().sum(), variables)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("compute", ["factored", "materialized"])
def test_a_layer_is_one_graph_and_computes_the_same(compute, dtype, tiny_backbone):
    layer = make_layer(tiny_backbone, compute, dtype)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    expected = outputs_and_gradients(layer, layer)
    found = outputs_and_gradients(layer, compiled)
    torch.testing.assert_close(found, expected)
    assert all(gradient.any() for gradient in found)
    assert all(vector.dtype == torch.float32 for vector in layer.tera_vectors["default"])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_generated_code_computes_the_same(tiny_backbone):
    layer = make_layer(tiny_backbone, "auto", torch.float32)
    expected = outputs_and_gradients(layer, layer)
    found = outputs_and_gradients(layer, torch.compile(layer, fullgraph=True, dynamic=True))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.fixture
def counter(monkeypatch):
    """Let runs compile with a backend that generates no code, and count what is compiled."""
    counter = CompileCounterWithBackend("aot_eager")
    compile_module = torch.nn.Module.compile

    def compile_with(module, **settings):
        compile_module(module, backend=counter, **settings)

    monkeypatch.setattr(torch.nn.Module, "compile", compile_with)
    return counter


@pytest.mark.slow
def test_a_run_trains_compiled_and_its_files_say_nothing_of_it(
    counter, write_tiny_config, tmp_path, monkeypatch
):
    config = str(write_tiny_config(tmp_path))
    monkeypatch.chdir(tmp_path)
    fit = ["fit", "--config", config, "--model.init_args.schedule.name=constant_with_warmup"]
    assert main([*fit, PACKED]) == 0
    assert counter.frame_count == 0
    assert main([*fit, PACKED, COMPILE, "--trainer.max_steps", "4"]) == 0
    # Of the first layer no input has a gradient; lengths of batches make no difference.
    assert 0 < counter.frame_count <= 4
    assert main([*fit, PACKED, COMPILE, CHECKPOINTING, "--ckpt_path", "last"]) == 0
    counter.frame_count = 0
    best = "runs/run/version_1/checkpoints/best.ckpt"
    assert main(["test", *fit[1:], PACKED, COMPILE, "--ckpt_path", best]) == 0
    assert counter.frame_count == 0
    assert command(["export", "--ckpt_path", best, "--output", "adapter"]) == 0
    runs = [
        torch.load(f"runs/run/version_{run}/checkpoints/last.ckpt", weights_only=True)
        for run in range(2)
    ]
    assert runs[0]["global_step"] == runs[1]["global_step"] == 8
    assert runs[0]["tera_pl"]["backbone"] == runs[1]["tera_pl"]["backbone"]
    torch.testing.assert_close(runs[1]["state_dict"], runs[0]["state_dict"], rtol=1e-3, atol=1e-4)


def test_what_cannot_be_compiled_is_one_line(tiny_backbone, monkeypatch):
    sharded = CausalLMTask(Backbone(str(tiny_backbone), compile=True), TeraConfig())
    monkeypatch.setattr(CausalLMTask, "device_mesh", object())
    with pytest.raises(UserError, match="sharded by FSDP2"):
        sharded.configure_model()
    with pytest.raises(UserError, match=r"backbone\.compile: Linear names no decoder layers"):
        compile_layers(torch.nn.Linear(2, 2))
    monkeypatch.setenv("CXX", "no-such-compiler")
    model = AutoModelForCausalLM.from_pretrained(tiny_backbone)
    with pytest.raises(UserError, match=r"there is no C\+\+ compiler no-such-compiler: install"):
        compile_layers(model)
