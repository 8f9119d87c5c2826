"""Every method goes the whole way: fit, resume to the same bits, best checkpoint, test, reload."""

import json
import shutil

import peft
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from datamodules import Commonsense170k
from tera_pl.cli import main
from tests.config.composition import compose
from tests.conftest import ROOT, tiny_settings
from tests.soak import SOAK

pytestmark = pytest.mark.slow

# These go through the same code of PEFT as others: `test_peft_methods.py` tries each without a
# Trainer, and a soak goes all the way.
SHORTENED = set() if SOAK else {"vblora", "fourierft", "c3a", "unilora", "beft", "waveft"}
METHODS = sorted(
    path.stem
    for path in (ROOT / "configs" / "miniature").glob("*.yaml")
    if not path.stem.startswith("study_") and path.stem not in SHORTENED
)
# Sizes that the tiny backbone cannot have, and others that it has.
SMALLER = {
    "randlora": {"r": 8},
    "road": {"group_size": 4},
    "vblora": {"vector_length": 4},
    "c3a": {"block_size": 4},
    "lora_xs": {"r": 4},
    "vera": {"r": 8},
    "p_tuning": {"encoder_hidden_size": 8},
}
LSTM = {"encoder_reparameterization_type": "LSTM", "encoder_hidden_size": 8}


def adapter_of(name):
    path = ROOT / "configs" / "miniature" / f"{name.removesuffix('_lstm')}.yaml"
    adapter = compose(path)["model"]["init_args"]["adapter"]
    if adapter is not None:
        adapter["init_args"] |= LSTM if name.endswith("_lstm") else SMALLER.get(name, {})
    return adapter


@pytest.fixture
def config(tiny_backbone, tiny_commonsense, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(name):
        content = tiny_settings(str(tiny_backbone), str(tiny_commonsense))
        content["model"]["init_args"] |= {
            "adapter": adapter_of(name),
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01}},
            "schedule": {"name": "linear", "warmup_steps": 1},
        }
        content["trainer"]["max_steps"] = 4
        content["trainer"]["logger"]["init_args"]["name"] = name
        content["checkpoint"] |= {"save_top_k": -1, "filename": "step{step}"}
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(content))
        return str(path)

    return write


@pytest.mark.parametrize("name", [*METHODS, "p_tuning_lstm"])
def test_from_fit_to_reload(name, config, tmp_path, tiny_backbone):
    path = config(name)
    assert main(["fit", "--config", path]) == 0
    runs = tmp_path / "runs" / name
    # Goes on from the middle, in another folder, to the same bits.
    shutil.copytree(runs / "version_0" / "checkpoints", runs / "version_1" / "checkpoints")
    shutil.copy(runs / "version_0" / ".tera_pl", runs / "version_1")
    middle = str(runs / "version_1" / "checkpoints" / "step2.ckpt")
    assert main(["fit", "--config", path, "--ckpt_path", middle]) == 0
    whole, resumed = (
        torch.load(runs / f"version_{i}" / "checkpoints" / "last.ckpt", weights_only=True)
        for i in range(2)
    )
    assert whole["global_step"] == resumed["global_step"] == 4
    assert whole["state_dict"].keys() == resumed["state_dict"].keys()
    first = torch.load(runs / "version_0" / "checkpoints" / "step2.ckpt", weights_only=True)
    for key, value in whole["state_dict"].items():
        assert torch.equal(resumed["state_dict"][key], value)
    assert any(not torch.equal(first["state_dict"][k], v) for k, v in whole["state_dict"].items())

    run = runs / "version_0"
    best = json.loads((run / "results.json").read_text())["fit"]["checkpoint"]["path"]
    assert main(["test", "--config", path, "--ckpt_path", best]) == 0
    results = json.loads((run / "results.json").read_text())
    assert 0 <= results["test"]["scores"]["test/accuracy"] <= 1
    assert_reloads_alone(run, best, results, tiny_backbone)


def assert_reloads_alone(run, best, results, tiny_backbone):
    """What was written for others gives, with plain PEFT, the loss that the run's test had."""
    base = AutoModelForCausalLM.from_pretrained(tiny_backbone)
    before = {name: value.clone() for name, value in base.state_dict().items()}
    trained = torch.load(best, weights_only=True)["state_dict"]
    if (run / "model").is_dir():
        model = AutoModelForCausalLM.from_pretrained(run / "model")
        assert trained.keys() == {f"model.{name}" for name, _ in model.named_parameters()}
    else:
        model = peft.PeftModel.from_pretrained(base, run / "adapter")
        stored = load_file(run / "adapter" / "adapter_model.safetensors")
        stated = results["fit"]["resources"]
        assert sum(value.numel() for value in trained.values()) == stated["trained"]
        assert sum(value.nbytes for value in stored.values()) > 0
        # The base was not touched, neither in the run nor by the adapter.
        for name, value in model.get_base_model().state_dict().items():
            plain = name.replace("base_layer.", "")
            if plain in before:
                assert torch.equal(value, before[plain])
    model.eval()
    settings = yaml.safe_load((run / "config.yaml").read_text())["data"]["init_args"]
    data = Commonsense170k(
        str(tiny_backbone), settings["path"], settings["tasks"], eval_batch_size=64
    )
    data.setup("test")
    loss = count = 0
    for batch in data.test_dataloader():
        inputs = {key: batch[key] for key in ("input_ids", "attention_mask", "labels")}
        number = int((batch["labels"][:, 1:] != -100).sum())
        with torch.no_grad():
            loss += model(**inputs).loss.item() * number
        count += number
    assert loss / count == pytest.approx(results["test"]["scores"]["test/loss"], rel=1e-5)
