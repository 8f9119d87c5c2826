"""Runs that are killed at random moments and resumed end with the same bits.

`make test` kills TeRA twice; with TERA_PL_SOAK=1 (`make soak`) it is killed twenty times and
every other method three times.
"""

import json
import os
import random
import re
import shutil
import signal
import time

import pytest
import torch
import yaml

from tests.conftest import tiny_settings
from tests.forks import CONTEXT, finish, start
from tests.methods.test_methods import METHODS, adapter_of
from tests.soak import SOAK

pytestmark = pytest.mark.slow

KILLS = {**dict.fromkeys(METHODS, 3), "tera": 20} if SOAK else {"tera": 2}
CASES = [(name, kill) for name, kills in KILLS.items() for kill in range(kills)]
DROPOUT = {"tera": "dropout", "lora": "lora_dropout", "loretta": "dropout", "vera": "vera_dropout"}


@pytest.fixture(scope="module")
def write_config(tiny_backbone, tiny_commonsense):
    def write(name, folder):
        adapter = adapter_of(name)
        if name in DROPOUT:
            adapter["init_args"][DROPOUT[name]] = 0.2
        content = tiny_settings(str(tiny_backbone), str(tiny_commonsense))
        content["model"]["init_args"] |= {
            "adapter": adapter,
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01}},
            "schedule": {"name": "linear", "warmup_steps": 5},
        }
        content["data"]["init_args"]["batch_size"] = 2
        del content["trainer"]["limit_val_batches"]
        content["trainer"] |= {
            "max_steps": 60,
            "accumulate_grad_batches": 2,
            "val_check_interval": 14,
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(content))

    return write


@pytest.fixture(scope="module")
def uninterrupted(write_config, tmp_path_factory):
    """An uninterrupted run of each method, made once: its folder and its seconds."""
    made = {}

    def make(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(f"whole_{name}")
            write_config(name, folder)
            first = CONTEXT.Process(target=int)  # waits until everything is imported
            first.start()
            first.join()
            begin = time.monotonic()
            finish(folder, "fit", "--config", "config.yaml")
            made[name] = (folder, time.monotonic() - begin)
        return made[name]

    return make


def wait_for(path, process):
    while not path.exists() and process.is_alive():
        time.sleep(0.002)
    assert path.exists()


def outcome(folder, version):
    """Everything that must be equal: trained tensors, optimizer, scores and predictions."""
    run = folder / "runs" / "run" / version
    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    best = str(run.relative_to(folder) / "checkpoints" / "best.ckpt")
    for old in run.glob("predictions*.jsonl"):
        old.unlink()
    finish(folder, "test", "--config", "config.yaml", "--ckpt_path", best)
    results = json.loads((run / "results.json").read_text())
    return {
        "state": last["state_dict"],
        "optimizer": last["optimizer_states"][0]["state"],
        "step": last["global_step"],
        "fit": results["fit"]["scores"],
        "tokens": results["fit"]["resources"]["train_tokens"],
        "test": results["test"]["scores"],
        "predictions": (run / "predictions.jsonl").read_text(),
    }


def assert_same(first, second):
    assert type(first) is type(second)
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_same(first[key], second[key])
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    else:
        assert first == second


@pytest.mark.parametrize(("name", "kill"), CASES)
def test_killed_run_resumes_to_the_same_bits(name, kill, uninterrupted, write_config, tmp_path):
    folder, seconds = uninterrupted(name)
    write_config(name, tmp_path)
    process = start(tmp_path, "fit", "--config", "config.yaml")
    # From somewhere in loading to the end; seeded by the case, apart from the machine's speed.
    time.sleep(random.Random(f"{name} {kill}").uniform(0.4, 0.98) * seconds)
    process.kill()
    process.join()
    assert process.exitcode in {0, -signal.SIGKILL}
    run = tmp_path / "runs" / "run" / "version_0"
    last = run / "checkpoints" / "last.ckpt"
    if last.exists():
        path = str(last.relative_to(tmp_path))
        finish(tmp_path, "fit", "--config", "config.yaml", "--ckpt_path", path)
        version = "version_0"
    else:
        finish(tmp_path, "fit", "--config", "config.yaml")
        version = max(p.name for p in run.parent.iterdir())
    assert_same(outcome(tmp_path, version), outcome(folder, "version_0"))


def test_run_killed_at_its_end_resumes_to_the_same_bits(uninterrupted, tmp_path):
    folder, _ = uninterrupted("tera")
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    last = "runs/run/version_0/checkpoints/last.ckpt"
    finish(tmp_path, "fit", "--config", "config.yaml", "--ckpt_path", last)
    assert_same(outcome(tmp_path, "version_0"), outcome(folder, "version_0"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_signal_saves_and_prints_the_resume_command(number, uninterrupted, write_config, tmp_path):
    folder, _ = uninterrupted("tera")
    write_config("tera", tmp_path)
    process = start(tmp_path, "fit", "--config", "config.yaml")
    last = tmp_path / "runs" / "run" / "version_0" / "checkpoints" / "last.ckpt"
    wait_for(last, process)
    time.sleep(0.1)
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == 1
    (message,) = re.findall(r"^stopped: .*", (tmp_path / "output.log").read_text(), re.MULTILINE)
    assert message.startswith(f"stopped: {number.name} after step ")
    command = message.partition("python -m tera_pl ")[2].split()
    assert command[0] == "fit"
    finish(tmp_path, *command)
    assert_same(outcome(tmp_path, "version_0"), outcome(folder, "version_0"))
