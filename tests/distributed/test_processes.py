"""Two processes (gloo) count every example once and reach the scores of one.

Where Lightning's launcher matters they are started by it, elsewhere as by torchrun.
"""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from tera_pl.reporting.record_losses import read_losses
from tests.conftest import ROOT
from tests.forks import finish

pytestmark = pytest.mark.slow

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
TWO = {"trainer.devices": 2, "trainer.strategy": "ddp"}


def as_arguments(settings):
    return [f"--{key}={value}" for key, value in (ARGUMENTS | settings).items()]


def launch(subcommand, folder, settings):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tera_pl", subcommand, *as_arguments(settings)]
    return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)


def run(subcommand, folder, **settings):
    processes = settings.get("trainer.devices", 1)
    finish(folder, subcommand, *as_arguments(settings), processes=processes)


def answers(folder):
    lines = [line for path in folder.glob("predictions*.jsonl") for line in path.open()]
    found = [json.loads(line) for line in lines]
    return sorted((p["id"], p["output"]) for p in found)


def test_fit_and_test_with_two_processes(tmp_path):
    run("fit", tmp_path, **TWO)
    fitted = tmp_path / "runs" / "quickstart" / "version_0"
    assert not (tmp_path / "runs" / "quickstart" / "version_1").exists()
    assert (fitted / "adapter" / "adapter_model.safetensors").exists()
    best = fitted / "checkpoints" / "best.ckpt"

    run("test", tmp_path, ckpt_path=best, **TWO)
    shared = json.loads((fitted / "results.json").read_text())
    answered = answers(fitted)
    assert len(answered) == NUM_TEST
    losses = read_losses(fitted / "losses_test.csv")
    for path in fitted.glob("predictions*"):
        path.unlink()
    run("test", tmp_path, ckpt_path=best)
    alone = json.loads((fitted / "results.json").read_text())
    assert answers(fitted) == answered
    again = read_losses(fitted / "losses_test.csv")
    assert [row.id for row in losses] == [row.id for row in again] == sorted(i for i, _ in answered)
    assert [row.tokens for row in losses] == [row.tokens for row in again]
    assert [row.nll for row in losses] == pytest.approx([row.nll for row in again], rel=1e-5)
    assert (fitted / "losses_test-1.csv").exists()  # of two processes
    assert shared["test"]["scores"] == pytest.approx(alone["test"]["scores"], rel=1e-5)
    assert shared["fit"]["scores"].keys() >= {"val/loss", "val/accuracy"}


def test_two_processes_take_the_steps_of_one(tmp_path):
    """Every step sees all 16 examples; the responses differ in length, so the shares do too."""
    sgd = {
        "model.init_args.optimizer.class_path": "torch.optim.SGD",
        "model.init_args.optimizer.init_args.lr": 3.0,
        "model.init_args.schedule.warmup_steps": 0,
        "model.init_args.schedule.name": "constant_with_warmup",
        "data.init_args.encoding.loss_on": "all",
        "data.init_args.num_train": 136,
        "trainer.max_steps": 4,
        "trainer.limit_val_batches": 1,
    }
    trained = []
    for processes in (1, 2):
        more = {"data.init_args.batch_size": 16 // processes}
        if processes == 2:
            more |= TWO
        run("fit", tmp_path, **(sgd | more))
        folder = tmp_path / "runs" / "quickstart" / f"version_{processes - 1}"
        trained.append(load_file(folder / "adapter" / "adapter_model.safetensors"))
    one, two = trained
    start = {name: torch.ones_like(value) for name, value in one.items()}
    assert any((one[name] - start[name]).abs().max() > 1e-3 for name in one)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-6)


def test_a_user_error_is_reported_once(tmp_path):
    """Both processes raise it when they load the model."""
    wrong = {"model.init_args.adapter.init_args.target_modules": "[nope]"}
    process = launch("fit", tmp_path, TWO | wrong)
    _, errors = process.communicate(timeout=1200)
    assert process.returncode == 2
    reported = [line for line in errors.splitlines() if "nope" in line]
    assert len(reported) == 1
    assert reported[0].startswith("error: model.init_args.adapter.init_args.target_modules: ")
    assert "Traceback" not in errors


def test_signal_to_one_process_stops_both_after_the_same_step(tmp_path):
    process = launch("fit", tmp_path, TWO | {"trainer.max_steps": 10_000})
    last = tmp_path / "runs" / "quickstart" / "version_0" / "checkpoints" / "last.ckpt"
    while not last.exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=1200)
    assert process.returncode == 1, errors[-2000:]
    (stopped,) = [line for line in errors.splitlines() if line.startswith("stopped")]
    step = torch.load(last, weights_only=True)["global_step"]
    assert stopped.startswith(f"stopped: SIGTERM after step {step}; to resume: ")
    assert "Traceback" not in errors
