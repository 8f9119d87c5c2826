"""Two processes (gloo) count every example once and reach the scores of one."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

CONFIG = ROOT / "configs" / "quickstart.yaml"
NUM_TEST = 37  # odd: one process has an example more
ARGUMENTS = {
    "config": CONFIG,
    "model.init_args.backbone.path": ROOT / "datamodules" / "miniworld" / "base",
    "data.init_args.num_train": 200,
    "data.init_args.num_test": NUM_TEST,
    "data.init_args.eval_batch_size": 8,
    "trainer.max_steps": 4,
    "trainer.val_check_interval": 2,
    "trainer.enable_progress_bar": "false",
}


def run(verb, folder, **more):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    arguments = [f"--{key}={value}" for key, value in (ARGUMENTS | more).items()]
    command = [sys.executable, "-m", "tera_pl", verb, *arguments]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def answers(folder):
    lines = [line for path in folder.glob("predictions*.jsonl") for line in path.open()]
    found = [json.loads(line) for line in lines]
    return sorted((p["id"], p["output"]) for p in found)


def test_fit_and_test_with_two_processes(tmp_path):
    two = {"trainer.devices": 2, "trainer.strategy": "ddp"}
    run("fit", tmp_path, **two)
    fitted = tmp_path / "runs" / "quickstart" / "version_0"
    assert not (tmp_path / "runs" / "quickstart" / "version_1").exists()
    assert (fitted / "adapter" / "adapter_model.safetensors").exists()
    best = fitted / "checkpoints" / "best.ckpt"

    run("test", tmp_path, ckpt_path=best, **two)
    shared = json.loads((fitted / "results.json").read_text())
    answered = answers(fitted)
    assert len(answered) == NUM_TEST
    for path in fitted.glob("predictions*"):
        path.unlink()
    run("test", tmp_path, ckpt_path=best)
    alone = json.loads((fitted / "results.json").read_text())
    assert answers(fitted) == answered
    assert shared["test"]["scores"] == pytest.approx(alone["test"]["scores"], rel=1e-5)
    assert shared["fit"]["scores"].keys() >= {"val/loss", "val/accuracy"}
