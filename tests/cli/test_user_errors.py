"""A user error is one line that names the key, the file or the record, and exit 2."""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from tera_pl.cli import main

pytestmark = pytest.mark.slow


ADAPTER = "model.init_args.adapter.init_args"
USER_ERRORS = {
    "unknown key": (["--model.init_args.learning_rate", "1"], "learning_rate"),
    "abbreviated option": (["--trainer.max_step", "9"], "max_step"),
    "key unknown to the adapter": ([f"--{ADAPTER}.sead", "1"], "'sead' is not accepted"),
    "wrong type": (["--trainer.max_steps", "many"], "max_steps"),
    "unknown module": ([f"--{ADAPTER}.target_modules", "[q_prj]"], "q_proj"),
    "size that cannot be split": ([f"--{ADAPTER}.out_modes", "9"], "24"),
    "product that does not match": ([f"--{ADAPTER}.out_modes", "[5, 5]"], "24"),
    "rank above its size": ([f"--{ADAPTER}.ranks", "[99, 6, 24]"], "99"),
    "missing data": (["--data.init_args.path", "/nowhere"], "/nowhere"),
    "missing backbone": (["--model.init_args.backbone.path", "/nowhere"], "/nowhere"),
    "too few for validation": (["--data.init_args.split.size", "4000"], "4000"),
    "metric never logged": (["--checkpoint.monitor", "val/accurate"], "val/accuracy"),
    "precision": (["--trainer.precision", "bf16-true"], "bf16-true"),
    "missing checkpoint": (["--ckpt_path", "/nowhere.ckpt"], "/nowhere.ckpt"),
    "negative interval": (["--ranks.every_n_validations", "-1"], "every_n_validations"),
}


@pytest.mark.parametrize("name", USER_ERRORS)
def test_user_error_is_one_line_and_exit_2(name, config, tmp_path, monkeypatch, capfd):
    arguments, expected = USER_ERRORS[name]
    monkeypatch.chdir(tmp_path)
    try:
        code = main(["fit", "--config", str(config), *arguments])
    except SystemExit as error:
        code = error.code
    text = capfd.readouterr().err
    assert code == 2
    assert "Traceback" not in text
    lines = [line for line in text.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert expected in lines[0]
    assert not list(tmp_path.rglob("*.ckpt"))


def test_broken_record_is_one_line_and_exit_2(
    config, tiny_commonsense, tmp_path, monkeypatch, capfd
):
    data = tmp_path / "data"
    shutil.copytree(tiny_commonsense, data)
    path = data / "openbookqa" / "train.json"
    records = json.loads(path.read_text())
    records[7]["output"] = ""
    path.write_text(json.dumps(records))
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--config", str(config), "--data.init_args.path", str(data)]) == 2
    error = capfd.readouterr().err
    assert f"error: {path}, record 7: field 'output' is empty\n" in error
    assert "Loading weights" not in error


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ([f"--{ADAPTER}.seed", "5"], "adapter.seed"),
        ([f"--{ADAPTER}.in_modes", "2"], "adapter.in_modes"),
        (["--model.init_args.optimizer.init_args.lr", "0.3"], "optimizer.lr"),
    ],
)
def test_checkpoint_of_other_settings_is_refused(change, key, config, finished, capfd):
    checkpoint = str(finished / "checkpoints" / "last.ckpt")
    assert main(["fit", "--config", str(config), "--ckpt_path", checkpoint, *change]) == 2
    assert f"{key} is" in capfd.readouterr().err


def test_checkpoint_of_another_base_is_refused(
    config, finished, tiny_backbone, tmp_path, monkeypatch, capfd
):
    other = tmp_path / "other_base"
    shutil.copytree(tiny_backbone, other)
    model = AutoModelForCausalLM.from_pretrained(other)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.add_(0.01)
    model.save_pretrained(other)
    monkeypatch.chdir(tmp_path)
    arguments = ["--config", str(config), "--model.init_args.backbone.path", str(other)]
    checkpoint = str(finished / "checkpoints" / "best.ckpt")
    assert main(["test", *arguments, "--ckpt_path", checkpoint]) == 2
    assert "frozen_weights_sha256" in capfd.readouterr().err
