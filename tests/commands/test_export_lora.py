"""`export --as lora`: plain peft computes the truncated update; the report has what is kept."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
import yaml
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from datamodules import Commonsense170k
from tera_pl import cli
from tera_pl.__main__ import main
from tera_pl.export import lora

pytestmark = pytest.mark.slow

RUN = "runs/run/version_0"
EXPORT = ("export", "--ckpt_path", f"{RUN}/checkpoints/best.ckpt", "--output")
PROMPT = "What color is the sky"
# The adapter is loaded by somebody who does not have this package.
PLAIN = """
import sys
sys.modules["tera_pl"] = None
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer
model = AutoPeftModelForCausalLM.from_pretrained(sys.argv[1]).eval()
ids = AutoTokenizer.from_pretrained(sys.argv[1])(sys.argv[2], return_tensors="pt")["input_ids"]
torch.save(model(input_ids=ids).logits, sys.argv[3])
"""


@pytest.fixture(scope="module")
def run(write_tiny_config, tmp_path_factory):
    """A finished run of four steps: TeRA on square and on smaller matrices."""
    folder = tmp_path_factory.mktemp("lora")
    path = write_tiny_config(folder)
    content = yaml.safe_load(path.read_text())
    content["trainer"] |= {"max_steps": 4, "limit_val_batches": 1.0}
    content["trainer"]["logger"]["init_args"]["save_dir"] = str(folder / "runs")
    path.write_text(yaml.safe_dump(content))
    assert cli.main(["fit", "--config", str(path)]) == 0
    return folder


@pytest.fixture(autouse=True)
def _in_the_folder(run, monkeypatch):
    monkeypatch.chdir(run)


@torch.no_grad()
def logits(model):
    ids = AutoTokenizer.from_pretrained(f"{RUN}/adapter")(PROMPT, return_tensors="pt")["input_ids"]
    return model.eval()(input_ids=ids).logits


def truncated(rank):
    """The base model with the updates of the run, truncated by numpy; their energies."""
    config = peft.PeftConfig.from_pretrained(f"{RUN}/adapter")
    base = AutoModelForCausalLM.from_pretrained(config.base_model_name_or_path)
    plain = AutoModelForCausalLM.from_pretrained(config.base_model_name_or_path)
    energies = {}
    for name, layer in peft.PeftModel.from_pretrained(base, f"{RUN}/adapter").named_modules():
        if hasattr(layer, "get_delta_weight"):
            delta = layer.get_delta_weight("default").detach().double().numpy()
            left, values, right = np.linalg.svd(delta, full_matrices=False)
            inner = name.removeprefix("base_model.model.")
            weight = plain.get_submodule(inner).weight
            weight.data += torch.from_numpy(left[:, :rank] * values[:rank] @ right[:rank])
            energies[inner] = (values[:rank] ** 2).sum() / (values**2).sum()
    return plain, energies


def test_plain_peft_computes_the_update_truncated_by_numpy(run):
    assert main([*EXPORT, "out", "--as", "lora", "--rank", "5"]) == 0
    subprocess.run([sys.executable, "-c", PLAIN, "out", PROMPT, "logits.pt"], check=True)
    found = torch.load("logits.pt")
    plain, energies = truncated(5)
    torch.testing.assert_close(found, logits(plain), rtol=1e-4, atol=1e-5)
    for rank in (0, 4, 6):
        assert (found - logits(truncated(rank)[0])).abs().max() > 1e-4
    report = json.loads((run / "out" / "export_report.json").read_text())
    kept = {name: layer["energy"] for name, layer in report["layers"].items()}
    assert kept == pytest.approx(energies, rel=1e-5)
    assert report["smallest_energy"] == min(kept.values())
    assert report["validation_loss_before"] is None
    config = json.loads((run / "out" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["rank_pattern"]) == (5, 5, {})
    assert sorted(config["target_modules"]) == ["q_proj", "v_proj"]
    assert "import tera_pl" not in (run / "out" / "README.md").read_text()


def test_auto_is_the_smallest_rank_that_keeps_the_energy_in_every_layer(run, capfd):
    assert main([*EXPORT, "auto", "--as", "lora", "--energy", "0.9"]) == 0
    report = json.loads((run / "auto" / "export_report.json").read_text())
    rank = report["rank"]
    assert 1 < rank < 24
    assert min(truncated(rank)[1].values()) >= 0.9 > min(truncated(rank - 1)[1].values())
    printed = capfd.readouterr().out
    assert f"rank             {rank}\n" in printed
    for name, layer in report["layers"].items():
        assert f"{name}     {layer['energy']:.6f}" in printed


@torch.no_grad()
def validation_loss(model):
    """Nats per supervised token, over the batches of the run's validation split."""
    content = yaml.safe_load(Path(f"{RUN}/config.yaml").read_text())
    init = content["data"]["init_args"]
    names = ("path", "tasks", "batch_size", "eval_batch_size")
    tokenizer = content["model"]["init_args"]["backbone"]["path"]
    data = Commonsense170k(**{name: init[name] for name in names}, tokenizer=tokenizer)
    data.prepare_data()
    data.setup("validate")
    total = count = 0
    for batch in data.val_dataloader():
        inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
        predicted = model.eval()(**inputs).logits[:, :-1].flatten(0, 1)
        labels = batch["labels"][:, 1:].flatten()
        total += F.cross_entropy(predicted, labels, reduction="sum").item()
        count += (labels != -100).sum().item()
    return total / count


def test_losses_are_those_of_the_run_and_of_the_model_truncated_by_numpy(run, capfd):
    losses = {}
    for rank in (2, 24):
        arguments = ["--as", "lora", "--rank", str(rank), "--config", f"{RUN}/config.yaml"]
        assert main([*EXPORT, f"loss{rank}", *arguments]) == 0
        report = json.loads((run / f"loss{rank}" / "export_report.json").read_text())
        losses[rank] = report["validation_loss_before"], report["validation_loss_after"]
        assert f"validation loss  {losses[rank][0]:.6g} before" in capfd.readouterr().out
    expected = validation_loss(truncated(24)[0])  # all singular values
    assert losses[24] == pytest.approx((expected, expected), rel=1e-5)
    less = validation_loss(truncated(2)[0])
    assert losses[2] == pytest.approx((expected, less), rel=1e-5)
    assert abs(less - expected) > 1e-4


WRONG = [
    (["--rank", "5"], "--rank is an option of --as lora"),
    (["--config", "c.yaml"], "--config is an option of --as lora"),
    (["--as", "lora", "--merge"], "--merge and --as lora exclude each other"),
    (["--as", "lora", "--rank", "513"], "'513': expected auto, or an integer from 1 to 512"),
    (["--as", "lora", "--rank", "0"], "'0': expected auto, or an integer from 1 to 512"),
    (["--as", "lora", "--energy", "1.5"], "'1.5': expected a share, at most 1"),
    (["--as", "lora", "--rank", "3", "--energy", "0.9"], "--energy is for --rank auto"),
    (["--as", "lora", "--rank", "25"], "--rank is 25: no adapted layer has a rank above 24"),
    (["--as", "lora", "--config", "none.yaml"], "none.yaml"),
]


def test_wrong_options_are_one_line_and_leave_nothing(run, capfd, monkeypatch):
    capfd.readouterr()
    monkeypatch.setattr(lora, "LARGEST_RANK", 3)
    above = (["--as", "lora", "--energy", "0.9"], "above the 3 that vLLM serves, which keeps 0.")
    for arguments, message in [*WRONG, above]:
        assert main([*EXPORT, "wrong", *arguments]) == 2
        lines = capfd.readouterr().err.splitlines()
        (error,) = [line for line in lines if line.startswith("error: ")]
        assert message in error
    assert not (run / "wrong").exists()
