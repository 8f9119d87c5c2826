"""Every method goes the whole way on a simulated accelerator: fit, resume, test, export.

All methods in `make soak`; in `make test` those whose ways differ most.
"""

import json
import shutil

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tera_pl.cli import main
from tera_pl.commands import export
from tests.methods.test_methods import METHODS, adapter_of
from tests.simulated_accelerator import NAME, Simulation, register
from tests.soak import SOAK

pytestmark = pytest.mark.slow

RADEMACHER = {"core_init": "rademacher", "factor_init": "rademacher"}
SELECTED = METHODS if SOAK else ["tera", "vera", "full"]


@pytest.fixture
def write(write_tiny_config, tmp_path, monkeypatch):
    """Write a configuration with a base in 16 bits, checkpointing and beams."""
    monkeypatch.chdir(tmp_path)
    register()

    def write(name, accelerator):
        config = yaml.safe_load(write_tiny_config(tmp_path).read_text())
        model, trainer = config["model"]["init_args"], config["trainer"]
        model["adapter"] = adapter_of(name)
        if name == "tera":
            model["adapter"]["init_args"] |= RADEMACHER
        model["optimizer"]["init_args"]["lr"] = 0.01
        model["schedule"]["warmup_steps"] = 1
        model["backbone"] |= {
            "dtype": "float32" if name == "full" else "bfloat16",
            "attn_implementation": "packed_sdpa",
            "gradient_checkpointing": True,
        }
        model["generation"] = {"max_new_tokens": 3, "num_beams": 2}
        config["data"]["init_args"]["eval_batch_size"] = 6
        trainer |= {
            "accelerator": accelerator,
            "max_steps": 4,
            "limit_val_batches": 1,
            "limit_test_batches": 1,
            "gradient_clip_val": 1.0,
        }
        trainer["logger"]["init_args"]["name"] = accelerator
        if accelerator == NAME:
            trainer["strategy"] = NAME
        config["checkpoint"] |= {"save_top_k": -1, "filename": "step{step}"}
        path = tmp_path / f"{accelerator}.yaml"
        path.write_text(yaml.safe_dump(config))
        return str(path), tmp_path / "runs" / accelerator

    return write


def trained(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.parametrize("name", SELECTED)
def test_whole_way(name, write, tmp_path, tiny_backbone):
    path, runs = write(name, NAME)
    run, resumed = runs / "version_0", runs / "version_1"
    with Simulation():
        assert main(["fit", "--config", path]) == 0
        shutil.copytree(run / "checkpoints", resumed / "checkpoints")
        shutil.copy(run / ".tera_pl", resumed)
        middle = str(resumed / "checkpoints" / "step2.ckpt")
        assert main(["fit", "--config", path, "--ckpt_path", middle]) == 0
        last = str(run / "checkpoints" / "last.ckpt")
        assert main(["test", "--config", path, "--ckpt_path", last]) == 0
    values = trained(run)
    for key, value in trained(resumed).items():
        assert torch.equal(value, values[key])
    scores = json.loads((run / "results.json").read_text())["test"]["scores"]
    assert 0 <= scores["test/accuracy"] <= 1

    # What is exported holds the same tensors, frozen ones that PEFT draws anew included.
    assert export.main(["--ckpt_path", last, "--output", str(tmp_path / "out")]) == 0
    assert_exported(tmp_path / "out", name, values, tiny_backbone)


def prompt_of(name, values):
    """The virtual tokens that PEFT stores: of P-Tuning what its encoder makes of them."""
    found = {key.removeprefix("model.prompt_encoder.default."): v for key, v in values.items()}
    prompt = found["embedding.weight"]
    for index in (0, 2, 4) if name == "p_tuning" else ():
        weight, bias = (found[f"mlp_head.{index}.{kind}"] for kind in ("weight", "bias"))
        prompt = torch.nn.functional.linear(prompt, weight, bias)
        prompt = prompt.relu() if index < 4 else prompt
    return prompt


def assert_exported(folder, name, values, backbone):
    if name in {"prompt_tuning", "p_tuning"}:
        stored = load_file(folder / "adapter_model.safetensors")["prompt_embeddings"]
        torch.testing.assert_close(stored, prompt_of(name, values), rtol=1e-6, atol=1e-7)
        return
    if name == "full":
        model = AutoModelForCausalLM.from_pretrained(folder)
    else:
        base = AutoModelForCausalLM.from_pretrained(backbone, dtype=torch.bfloat16)
        model = PeftModel.from_pretrained(base, folder, is_trainable=True)
    found = dict(model.named_parameters())
    for key, value in values.items():
        assert torch.equal(found[key.removeprefix("model.")], value)
