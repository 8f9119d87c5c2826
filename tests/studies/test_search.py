"""A search is Optuna's own, prunes by the losses alone, and resumes as if uninterrupted."""

import json
import math
import sys
from pathlib import Path

import optuna
import pytest
import yaml

from tera_pl.checkpointing.markers import mark_new_folder
from tera_pl.cli import guard
from tera_pl.commands import study
from tera_pl.errors import RunStoppedError
from tera_pl.studies import comparison, processes
from tera_pl.studies.definition import LEARNING_RATE, read_study
from tera_pl.studies.processes import Processes
from tests.studies.conftest import get
from tests.studies.test_study_processes import CHILD

SEED, TRIALS, STARTUP, STEPS = 3, 12, 4, (10, 20, 30)
SEARCH = """
output: out
seeds: [3, 4]
search:
  trials: 12
  learning_rate: [0.001, 1.0]
  space:
    x.modes: [[4, 6], [24], 2]
    x.scale: {low: 0.5, high: 4.0}
    x.width: {low: 1, high: 64, log: true}
  startup_trials: 4
entries:
  a: {config: a.yaml, seed_keys: [x.seed]}
"""
MODES = [[4, 6], [24], 2]


def losses(lr, modes, scale, width):
    """The losses of the validations of a simulated run, which has a best point in the inside."""
    end = (math.log10(lr) + 1) ** 2 + 0.3 * MODES.index(modes) + abs(scale - 2) + 0.01 * width
    return {step: end + 1 / step for step in STEPS}


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Runs that write their validations one after the other; `fail` and `stop` end some."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").touch()
    (tmp_path / "study.yaml").write_text(SEARCH)
    made = []

    def settings(entry, name, folder):
        drawn = dict.fromkeys(("seed", "modes", "scale", "width"))
        model = {"init_args": {"optimizer": {"init_args": {"lr": None}}}}
        return {"model": model, "data": {}, "trainer": {"callbacks": None}, "x": drawn}

    def call(self, subcommand, arguments, folder, lock, is_hopeless=None):
        found = yaml.safe_load(Path(arguments[1]).read_text())
        assert found["trainer"]["callbacks"] == [
            {"class_path": "tera_pl.callbacks.ValidationScores"}
        ]
        assert found["x"].pop("seed") == found["seed_everything"]
        made.append((subcommand, found["seed_everything"], get(found, LEARNING_RATE), found["x"]))
        run = folder / "version_0"
        if not run.exists():
            mark_new_folder(run, "run")
            (run / "checkpoints").mkdir()
            (run / "checkpoints" / "last.ckpt").touch()
            (run / "checkpoints" / "best.ckpt").touch()
        rows, results = [], {}
        for step, loss in losses(made[-1][2], **found["x"]).items():
            rows.append({"step": step, "val/loss": loss})
            (run / "validations.json").write_text(json.dumps(rows))
            if is_hopeless and is_hopeless():
                return
            if len(made) in stops and step == 20:
                raise RunStoppedError("killed")
        if len(made) in failures:
            return
        resources = {"trained": 7, "stored_bytes": 28, "train_seconds": 2.0}
        resources |= {"peak_memory_bytes": 2**20}
        results["fit"] = {"scores": {"val/loss": rows[-1]["val/loss"]}, "resources": resources}
        if subcommand == "test":
            results["test"] = {"scores": {"test/accuracy": 0.5, "test/loss": 0.25}}
        (run / "results.json").write_text(json.dumps(results))

    stops, failures = set(), set()
    monkeypatch.setattr(comparison, "resolve", settings)
    monkeypatch.setattr(Processes, "call", call)
    return {"made": made, "stop": stops, "fail": failures}


def search():
    return study.main(["--config", "study.yaml"])


def expected_trials():
    """The same search without this package, in memory."""
    found = optuna.create_study(pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP))
    for number in range(TRIALS):
        found.sampler = optuna.samplers.TPESampler(n_startup_trials=STARTUP, seed=SEED + number)
        trial = found.ask()
        lr = trial.suggest_float("learning_rate", 0.001, 1.0, log=True)
        modes = trial.suggest_categorical("x.modes", [json.dumps(choice) for choice in MODES])
        scale = trial.suggest_float("x.scale", 0.5, 4.0)
        width = trial.suggest_int("x.width", 1, 64, log=True)
        values = losses(lr, json.loads(modes), scale, width)
        for step, loss in values.items():
            trial.report(loss, step)
            if trial.should_prune():
                found.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            found.tell(trial, values[STEPS[-1]])
    return found


def test_trials_are_those_of_optuna_and_the_best_runs_its_seeds(runs, tmp_path, capsys):
    assert search() == 0
    expected = expected_trials()
    pruned = [t for t in expected.trials if t.state.name == "PRUNED"]
    assert 0 < len(pruned) < TRIALS - STARTUP
    fits = [run for run in runs["made"] if run[0] == "fit"]
    assert [(lr, x["scale"], x["width"], x["modes"]) for _, _, lr, x in fits[:TRIALS]] == [
        (p["learning_rate"], p["x.scale"], p["x.width"], json.loads(p["x.modes"]))
        for p in (trial.params for trial in expected.trials)
    ]
    # The run of the best trial is used again for its seed.
    best = expected.best_trial
    assert [run[1:3] for run in fits[TRIALS:]] == [(4, best.params["learning_rate"])]
    tested = [run[1:3] for run in runs["made"] if run[0] == "test"]
    assert tested == [(seed, best.params["learning_rate"]) for seed in (3, 4)]
    (row,) = json.loads((tmp_path / "out" / "study.json").read_text())
    assert row["lr"] == best.params["learning_rate"]
    assert row["values"]["x.width"] == best.params["x.width"]
    complete = [t.value if t.state.name == "COMPLETE" else None for t in expected.trials]
    assert list(row["search"].values()) == complete
    assert capsys.readouterr().err.count("pruned") == len(pruned)
    # Finished: nothing runs again.
    done = len(runs["made"])
    assert search() == 0
    assert len(runs["made"]) == done


def test_interrupted_search_resumes_to_the_same_trials(runs, tmp_path):
    expected = expected_trials()
    # One at random and one by the model; the calls are counted from one, the second from two.
    late = next(t.number for t in expected.trials[STARTUP:] if t.state.name == "COMPLETE")
    runs["stop"] |= {2, late + 2}
    for _ in range(2):
        with pytest.raises(RunStoppedError):
            search()
    assert search() == 0
    (row,) = json.loads((tmp_path / "out" / "study.json").read_text())
    complete = [t.value if t.state.name == "COMPLETE" else None for t in expected.trials]
    assert list(row["search"].values()) == complete
    # The interrupted runs continued in their folders.
    assert len(list((tmp_path / "out" / "a").glob("lr*"))) == TRIALS + 1


def test_failed_run_is_a_trial_and_is_never_the_best(runs, tmp_path):
    shorter = SEARCH.replace("trials: 12", "trials: 4", 1)
    (tmp_path / "study.yaml").write_text(shorter)
    runs["fail"] |= set(range(1, 4))
    assert search() == 0
    (row,) = json.loads((tmp_path / "out" / "study.json").read_text())
    assert [loss is None for loss in row["search"].values()] == [True, True, True, False]
    runs["fail"] |= set(range(1, 1000))
    (tmp_path / "study.yaml").write_text(shorter.replace("output: out", "output: other"))
    with pytest.raises(RunStoppedError, match="a: no trial of 4 finished: see other/a"):
        search()


def test_more_trials_continue_a_search_and_another_range_starts_one(runs, tmp_path):
    (tmp_path / "study.yaml").write_text(SEARCH.replace("trials: 12", "trials: 5", 1))
    assert search() == 0
    (tmp_path / "study.yaml").write_text(SEARCH)
    assert search() == 0
    (row,) = json.loads((tmp_path / "out" / "study.json").read_text())
    complete = [t.value if t.state.name == "COMPLETE" else None for t in expected_trials().trials]
    assert list(row["search"].values()) == complete
    assert len(list((tmp_path / "out" / "a").glob("search-*"))) == 1
    (tmp_path / "study.yaml").write_text(
        SEARCH.replace("a.yaml,", "a.yaml, learning_rate: [1, 2],")
    )
    assert search() == 0
    assert len(list((tmp_path / "out" / "a").glob("search-*"))) == 2
    assert {run[2] >= 1 for run in runs["made"][-3:]} == {True}


def test_damaged_journal_is_one_line(runs, tmp_path, capsys):
    (tmp_path / "study.yaml").write_text(SEARCH.replace("trials: 12", "trials: 1", 1))
    assert search() == 0
    (journal,) = (tmp_path / "out" / "a").glob("search-*/journal.log")
    journal.write_text("{\n{\n")
    capsys.readouterr()
    assert guard(search) == 1
    assert f"{journal.relative_to(tmp_path)} is damaged" in capsys.readouterr().err


def test_search_without_optuna_is_one_line(runs, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert guard(search) == 2
    line = 'error: search needs optuna, which is not installed: pip install "tera-pl[search]"\n'
    assert capsys.readouterr().err == line
    assert not Path("out").exists()


INVALID = {
    "trials: 12": ("trials: 0", "search.trials is 0: expected an integer from 1"),
    "[0.001, 1.0]": ("[1.0, 0.001]", "search.learning_rate is [1.0, 0.001]: expected the smallest"),
    "learning_rate: [0.001, 1.0]": ("pruning: true", "search.learning_rate is missing"),
    "startup_trials: 4": ("startup: 4", "search.startup is unknown: did you mean startup_trials?"),
    "low: 0.5": ("low: 5.0", "search.space: x.scale is {'low': 5.0, 'high': 4.0}: expected low"),
    "low: 1,": ("low: 0,", "expected low below high, and above 0 with log"),
    "[[4, 6], [24], 2]": ("2", "search.space: x.modes is 2: expected a list of choices, or low"),
    "x.scale": ("seed_everything", "search.space: seed_everything is set by the study"),
    "seed_keys: [x.seed]": ("set: {x.scale: 1}", "entries.a sets x.scale too: remove one"),
    "a.yaml,": ("a.yaml, learning_rates: [1],", "entries.a.learning_rates has no effect"),
    "seeds: [3, 4]": ("seeds: [3]\nlearning_rates: [1]", "learning_rates and search exclude"),
    SEARCH[SEARCH.index("search:") : SEARCH.index("entries")]: ("", "learning_rates is missing"),
}


@pytest.mark.parametrize("text", INVALID)
def test_invalid_search_is_one_line_that_names_the_key(runs, text, capsys):
    changed, message = INVALID[text]
    Path("study.yaml").write_text(SEARCH.replace(text, changed, 1))
    assert guard(search) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not Path("out").exists()


def test_values_that_the_search_can_draw_are_checked_before_any_run(runs, monkeypatch):
    checked = []
    resolve = comparison.resolve
    monkeypatch.setattr(
        comparison,
        "resolve",
        lambda entry, *rest: checked.append(entry.set) or resolve(entry, *rest),
    )
    search()
    assert read_study(Path("study.yaml")).search.startup_trials == STARTUP
    assert [found["x.modes"] for found in checked[:3]] == MODES
    assert {found["x.scale"] for found in checked[:3]} == {0.5, 4.0}
    assert {found["x.width"] for found in checked[:3]} == {1, 64}


def test_hopeless_process_saves_and_ends(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(processes, "COMMAND", (sys.executable, "-c", CHILD))
    monkeypatch.setattr(processes, "SECONDS_BETWEEN_CHECKS", 0.01)
    ready = tmp_path / "ready"
    with (tmp_path / "lock").open("w") as lock:
        Processes().call("fit", [str(tmp_path)], tmp_path, lock.fileno(), ready.exists)
    assert (tmp_path / "saved").exists()
    assert "fit pruned" in capsys.readouterr().err
    # A process that ends by itself is not pruned.
    monkeypatch.setattr(processes, "COMMAND", (sys.executable, "-c", "pass"))
    with (tmp_path / "lock").open("w") as lock:
        Processes().call("fit", [], tmp_path, lock.fileno(), lambda: False)
    assert "fit done" in capsys.readouterr().err
