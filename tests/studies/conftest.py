"""A study of two entries whose runs write results at once."""

import json
from pathlib import Path

import pytest
import yaml

from tera_pl.checkpointing.markers import mark_new_folder
from tera_pl.studies import comparison
from tera_pl.studies.definition import LEARNING_RATE
from tera_pl.studies.processes import Processes

STUDY = """
output: out
learning_rates: [0.1]
seeds: [3]
entries: {a: {config: a.yaml}}
"""


def get(settings, key):
    for part in key.split("."):
        settings = settings[part]
    return settings


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").touch()
    (tmp_path / "study.yaml").write_text(
        "output: out\nlearning_rates: [0.1, 0.2, 0.4]\nseeds: [3, 4]\n"
        "entries:\n  a: {config: a.yaml, set: {x.y: 5}, seed_keys: [x.seed]}\n"
    )
    return tmp_path / "study.yaml"


@pytest.fixture
def calls(monkeypatch):
    """Runs that write results at once; of the rates 0.2 has the lowest loss, 0.4 has none."""
    made = []
    losses = {0.1: 0.9, 0.2: 0.5, 0.4: float("nan")}

    def settings(entry, name, folder):
        optimizer = {"init_args": {"lr": None}}
        return {
            "model": {"init_args": {"optimizer": optimizer}},
            "data": {},
            "trainer": {},
            "x": {"seed": None},
            "set": entry.set,
        }

    def call(self, subcommand, arguments, folder, lock, is_hopeless=None):
        found = yaml.safe_load(Path(arguments[1]).read_text())
        made.append((subcommand, found, arguments[2:]))
        lr = get(found, LEARNING_RATE)
        run = folder / "version_0"
        results = json.loads((run / "results.json").read_text()) if subcommand == "test" else {}
        if subcommand == "fit":
            if not run.exists():
                mark_new_folder(run, "run")
            scores = {"val/accuracy": 0.3, "val/loss": losses[lr]}
            resources = {"trained": 7, "stored_bytes": 28, "train_seconds": 2.0}
            results["fit"] = {
                "scores": scores,
                "resources": resources | {"peak_memory_bytes": 2**20},
            }
            (run / "checkpoints").mkdir(exist_ok=True)
            (run / "checkpoints" / "best.ckpt").touch()
        else:
            accuracy = 0.5 + found["seed_everything"] / 10
            results["test"] = {"scores": {"test/accuracy": accuracy, "test/loss": 0.25}}
        (run / "results.json").write_text(json.dumps(results))

    monkeypatch.setattr(comparison, "resolve", settings)
    monkeypatch.setattr(Processes, "call", call)
    return made
