"""Runs on a quantized base: resumed to the same bits, exported, and merged after dequantization."""

import json
import shutil
import textwrap

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from tera_pl import cli
from tera_pl.__main__ import main
from tera_pl.adapters.quantized import is_quantized, quantized_layers
from tera_pl.checkpointing.trained_model import load_trained_model
from tera_pl.export.merged_model import TEXT, compute_logits
from tests.models.test_quantization import SETTINGS, TARGETS, assert_same, logits

pytestmark = pytest.mark.slow


@pytest.fixture
def config(tiny_config, tmp_path, monkeypatch):
    """Write a configuration of four steps with a checkpoint after every second; give its path."""
    monkeypatch.chdir(tmp_path)

    def write(name, adapter="tera"):
        content = yaml.safe_load(tiny_config.read_text())
        init = content["model"]["init_args"]
        quantization = {"class_path": "transformers.BitsAndBytesConfig"}
        quantization["init_args"] = SETTINGS[name]
        init["backbone"]["quantization"] = quantization
        if adapter == "lora":
            settings = {"target_modules": TARGETS, "r": 4}
            init["adapter"] = {"class_path": "peft.LoraConfig", "init_args": settings}
        content["trainer"]["max_steps"] = 4
        content["checkpoint"] |= {"save_top_k": -1, "filename": "step{step}"}
        tiny_config.write_text(yaml.safe_dump(content))
        return str(tiny_config)

    return write


def fit(config, *arguments):
    assert cli.main(["fit", "--config", config, *arguments]) == 0


def read(path):
    return torch.load(path, map_location="cpu", weights_only=True)


RUN = "runs/run/version_0"


@pytest.mark.parametrize("name", ["nf4", "int8"])
def test_a_resumed_run_ends_with_the_same_bits(name, config, tmp_path, capfd):
    path = config(name)
    fit(path)
    shutil.copytree(RUN, "runs/run/version_1")
    resumed = tmp_path / "runs" / "run" / "version_1" / "checkpoints"
    middle = str(resumed / "step2.ckpt")
    (resumed / "last.ckpt").unlink()
    fit(path, "--ckpt_path", middle)
    expected, found = read(f"{RUN}/checkpoints/last.ckpt"), read(resumed / "last.ckpt")
    assert_same(found["state_dict"], expected["state_dict"], rtol=0, atol=0)
    assert found["global_step"] == 4
    # What the base weights are in memory is a part of the settings.
    other = config("int8" if name == "nf4" else "nf4")
    for change in ([], ["--model.init_args.backbone.quantization=null"]):
        capfd.readouterr()
        assert cli.main(["fit", "--config", other, "--ckpt_path", middle, *change]) == 2
        (line,) = [line for line in capfd.readouterr().err.splitlines() if "error: " in line]
        assert "backbone.quantization" in line


@pytest.mark.parametrize(("name", "adapter"), [("nf4", "tera"), ("nf4", "lora"), ("int8", "tera")])
def test_exports_of_a_quantized_base(name, adapter, config, tmp_path, capfd, monkeypatch):
    # Its kernel for AVX512_BF16 needs sizes divisible by 32.
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False)
    fit(config(name, adapter), "--trainer.max_steps=2")
    export = ["export", "--ckpt_path", f"{RUN}/checkpoints/last.ckpt", "--output"]
    assert main([*export, "adapter"]) == 0
    # As its card says, which plain PEFT and transformers can read.
    card = (tmp_path / "adapter" / "README.md").read_text()
    code = card.partition("    import")[2] if adapter == "tera" else card.partition("    from")[2]
    code = f"{'import' if adapter == 'tera' else 'from'}{code.partition('Without')[0]}"
    code = textwrap.dedent("    " + code.partition("## Scores")[0])
    names = {}
    exec(code.replace("<this folder>", "adapter"), names)
    loaded = names["model"]
    layer = loaded.base_model.model.model.layers[0].self_attn.q_proj
    assert is_quantized(layer.base_layer)
    trained = load_trained_model(read(f"{RUN}/checkpoints/last.ckpt"))
    expected = logits(trained.model)
    assert torch.equal(logits(loaded), expected)
    ids = trained.tokenizer(TEXT, return_tensors="pt")["input_ids"]
    (quantized_logits,) = compute_logits(loaded, [ids])
    assert not torch.equal(logits(loaded.unload()), expected)

    capfd.readouterr()
    assert main([*export, "merged", "--merge"]) == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "error: " in line]
    assert "q_proj is quantized" in line
    assert "--dequantize" in line
    assert not (tmp_path / "merged").exists()
    assert main([*export, "merged", "--merge", "--dequantize"]) == 0

    plain = AutoModelForCausalLM.from_pretrained("merged")
    assert not quantized_layers(plain)
    # Its weights, written out.
    dequantized = trained.model.get_base_model().dequantize(torch.float32).state_dict()
    for index, other in enumerate(plain.model.layers):
        weight = f"model.layers.{index}.mlp.up_proj.weight"
        assert torch.equal(other.mlp.up_proj.weight, dequantized[weight])
        stored = dequantized[f"model.layers.{index}.self_attn.q_proj.base_layer.weight"]
        attention = trained.model.base_model.model.model.layers[index].self_attn
        delta = attention.q_proj.get_delta_weight("default")
        assert delta.any()
        torch.testing.assert_close(other.self_attn.q_proj.weight, stored + delta)
    # The error that is reported, on the same text.
    report = json.loads((tmp_path / "merged" / "export_report.json").read_text())
    difference = compute_logits(plain, [ids])[0] - quantized_logits
    assert report["largest_dequantization_error"] == pytest.approx(difference.abs().max().item())
    relative = (difference.norm() / quantized_logits.norm()).item()
    assert report["relative_dequantization_error"] == pytest.approx(relative)
    # In training on a CPU 8-bit layers dequantize their weights, in inference they round inputs.
    assert relative < 0.02
    assert (relative > 1e-4) == (name == "int8")
