"""A study picks the rate by validation, repeats nothing that is finished, and reports failures."""

import json
import signal
import threading
import time

import pytest

from tera_pl.cli import guard
from tera_pl.commands import study
from tera_pl.stopped import RunStoppedError


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(
        "output: out\nlearning_rates: [0.1, 0.2, 0.4]\nseeds: [3, 4]\n"
        "entries:\n  a: {config: a.yaml, set: {x.y: 5}, seed_keys: [x.seed]}\n"
    )
    return tmp_path / "study.yaml"


@pytest.fixture
def calls(monkeypatch):
    """Runs that write results at once; of the rates 0.2 has the lowest loss, 0.4 has none."""
    made = []
    losses = {"0.1": 0.9, "0.2": 0.5, "0.4": float("nan")}

    def call(verb, arguments, run):
        values = dict(a.removeprefix("--").split("=", 1) for a in arguments if "=" in a)
        made.append((verb, values))
        lr = values[study.LEARNING_RATE]
        found = json.loads((run / "results.json").read_text()) if verb == "test" else {}
        if verb == "fit":
            scores = {"val/accuracy": 0.3, "val/loss": losses[lr]}
            resources = {"trained": 7, "stored_bytes": 28, "train_seconds": 2.0}
            found["fit"] = {"scores": scores, "resources": resources | {"peak_memory_bytes": 2**20}}
            (run / "checkpoints").mkdir(parents=True)
            (run / "checkpoints" / "best.ckpt").touch()
        else:
            accuracy = 0.5 + int(values["seed_everything"]) / 10
            found["test"] = {"scores": {"test/accuracy": accuracy, "test/loss": 0.25}}
        (run / "results.json").write_text(json.dumps(found))

    monkeypatch.setattr(study, "_call", call)
    return made


def test_rate_is_chosen_by_validation_on_the_first_seed(config, calls, tmp_path):
    assert study.main(["--config", str(config)]) == 0
    fits = [(v["seed_everything"], v[study.LEARNING_RATE]) for verb, v in calls if verb == "fit"]
    assert fits == [("3", "0.1"), ("3", "0.2"), ("3", "0.4"), ("4", "0.2")]
    tests = [(v["seed_everything"], v[study.LEARNING_RATE]) for verb, v in calls if verb == "test"]
    assert tests == [("3", "0.2"), ("4", "0.2")]
    assert all(v["x.y"] == "5" and v["x.seed"] == v["seed_everything"] for _, v in calls)
    (row,) = json.loads((tmp_path / "out" / "study.json").read_text())
    assert row["mean"] == pytest.approx(0.85)
    assert row["sd"] == pytest.approx(0.05 * 2**0.5)
    assert row["search"] == pytest.approx(
        {"0.1": 0.9, "0.2": 0.5, "0.4": float("nan")}, nan_ok=True
    )
    table = (tmp_path / "out" / "table.md").read_text()
    assert "| a | 85.0 | 7.1 | 0.250 | 0.2 | 7 | 28 |" in table
    assert len({line.count("|") for line in table.splitlines()}) == 1


def test_finished_runs_are_not_repeated(config, calls):
    study.main(["--config", str(config)])
    done = len(calls)
    study.main(["--config", str(config)])
    assert len(calls) == done


def test_a_failed_run_is_told_and_left_out(config, calls, monkeypatch):
    good = study._call

    def call(verb, arguments, run):
        if f"--{study.LEARNING_RATE}=0.2" not in arguments:
            good(verb, arguments, run)

    monkeypatch.setattr(study, "_call", call)
    study.main(["--config", str(config)])
    assert {v[study.LEARNING_RATE] for verb, v in calls if verb == "test"} == {"0.1"}
    monkeypatch.setattr(study, "_call", lambda *args: None)
    config.write_text(config.read_text().replace("output: out", "output: other"))
    with pytest.raises(RunStoppedError, match=r"a: no learning rate of \[0.1, 0.2, 0.4\] finished"):
        study.main(["--config", str(config)])


def test_a_score_that_the_test_lacks_is_named(config, calls, capsys):
    config.write_text(config.read_text() + "score: average\n")
    assert guard(lambda: study.main(["--config", str(config)])) != 0
    assert "the tests at 0.2 have no score 'average'" in capsys.readouterr().err


def test_accuracies_are_shown_in_percent_and_other_scores_are_percent():
    row = {"name": "a", "mean": 0.5, "sd": 0.25, "losses": [1.0], "lr": 0.1, "seconds": 1.0}
    row |= {"trained": 7, "stored_bytes": 28, "peak_memory_bytes": 2**20}
    table = study.as_table(
        [row | {"score": "accuracy_average"}, row | {"score": "average", "mean": 47.69}]
    )
    assert [line.split(" | ")[1:3] for line in table.splitlines()[2:]] == [
        ["50.0", "25.0"],
        ["47.7", "0.2"],
    ]


def test_a_failed_seed_fails_its_line_alone(config, calls, monkeypatch, tmp_path):
    config.write_text(config.read_text() + "  b: {config: b.yaml}\n")
    good = study._call

    def call(verb, arguments, run):
        if "out/a" not in str(run) or "--seed_everything=4" not in arguments:
            good(verb, arguments, run)

    monkeypatch.setattr(study, "_call", call)
    with pytest.raises(RunStoppedError, match=r"a: no test at 0.2 for seeds \[4\]"):
        study.main(["--config", str(config)])
    (row,) = json.loads((tmp_path / "out" / "study.json").read_text())
    assert row["name"] == "b"


def test_a_killed_run_starts_again_in_its_place(config, calls, tmp_path):
    left = tmp_path / "out" / "a" / "lr0.1-seed3" / "version_0" / "events"
    left.mkdir(parents=True)
    study.main(["--config", str(config)])
    assert not left.exists()


def test_output_of_a_failed_command_is_kept(tmp_path, capsys):
    run = tmp_path / "a" / "version_0"
    study._call("fit", ["--config", "none.yaml"], run)
    assert "none.yaml" in (tmp_path / "a" / "fit.log").read_text()
    assert "fit failed (2)" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "[1]", "output: x", "entries: {a: {b: 1}}\noutput: x", "{"])
def test_what_is_no_study_is_told(tmp_path, text, capsys):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    assert guard(lambda: study.main(["--config", str(path)])) == 2
    assert "is no study" in capsys.readouterr().err


def test_a_grid_is_a_line_for_each_combination(config):
    config.write_text(
        "output: out\nlearning_rates: [0.1]\nseeds: [3]\nentries:\n"
        "  a:\n    config: a.yaml\n    set: {x.z: 1}\n"
        "    grid: {x.y: [1, 2], x.sizes: [[4, 8], {q: 3}]}\n"
    )
    entries = study.read_study(config).entries
    assert {name: entry.set for name, entry in entries.items()} == {
        "a y=1 sizes=4,8": {"x.z": 1, "x.y": 1, "x.sizes": [4, 8]},
        "a y=1 sizes=q=3": {"x.z": 1, "x.y": 1, "x.sizes": {"q": 3}},
        "a y=2 sizes=4,8": {"x.z": 1, "x.y": 2, "x.sizes": [4, 8]},
        "a y=2 sizes=q=3": {"x.z": 1, "x.y": 2, "x.sizes": {"q": 3}},
    }


def test_values_reach_the_command_line_as_yaml(config, calls):
    config.write_text(
        "output: out\nlearning_rates: [0.1]\nseeds: [3]\n"
        "entries: {a: {config: a.yaml, set: {x.on: true, x.q: {r: [1, 2]}, x.name: word}}}\n"
    )
    study.main(["--config", str(config)])
    assert {key: value for key, value in calls[0][1].items() if key.startswith("x.")} == {
        "x.on": "true",
        "x.q": '{"r": [1, 2]}',
        "x.name": "word",
    }


@pytest.mark.parametrize("jobs", ["1", "3"])
def test_shards_share_all_lines_and_a_last_run_writes_the_table(config, calls, tmp_path, jobs):
    config.write_text(
        config.read_text() + "".join(f"  e{i}: {{config: a.yaml}}\n" for i in range(4))
    )
    shards = []
    for index in (1, 2):
        done = len(calls)
        study.main(["--config", str(config), "--shard", f"{index}/2", "--jobs", jobs])
        shards.append({v["trainer.logger.init_args.save_dir"] for _, v in calls[done:]})
    assert [sorted(shard) for shard in shards] == [
        ["out/a", "out/e1", "out/e3"],
        ["out/e0", "out/e2"],
    ]
    assert not (tmp_path / "out" / "table.md").exists()
    done = len(calls)
    study.main(["--config", str(config)])
    assert len(calls) == done
    rows = json.loads((tmp_path / "out" / "study.json").read_text())
    assert [row["name"] for row in rows] == ["a", "e0", "e1", "e2", "e3"]


def test_no_more_runs_at_once_than_jobs(config, calls, monkeypatch):
    config.write_text(
        config.read_text() + "".join(f"  e{i}: {{config: a.yaml}}\n" for i in range(5))
    )
    good, lock, running, most = study._call, threading.Lock(), 0, 0

    def call(verb, arguments, run):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.005)
        with lock:
            good(verb, arguments, run)
            running -= 1

    monkeypatch.setattr(study, "_call", call)
    study.main(["--config", str(config), "--jobs", "2"])
    assert most == 2


def test_nothing_is_started_after_an_interrupt(config, calls, monkeypatch):
    config.write_text(
        config.read_text() + "".join(f"  e{i}: {{config: a.yaml}}\n" for i in range(5))
    )
    made = []

    def call(verb, arguments, run):
        made.append(run)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(0.2)  # as a run that ends because of the same signal

    monkeypatch.setattr(study, "_call", call)
    # A shell starts jobs in the background with the signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            study.main(["--config", str(config)])
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(made) == 1


@pytest.mark.parametrize(
    ("grid", "told"),
    [
        ("{x.y: uniform}", "x.y is 'uniform': expected a list"),
        ("{x.y: [ab, a b]}", "two lines are 'a y=ab': expected one each"),
    ],
)
def test_a_grid_that_would_lose_lines_is_told(config, grid, told, capsys):
    config.write_text(
        "output: out\nlearning_rates: [0.1]\nseeds: [3]\n"
        f"entries: {{a: {{config: a.yaml, grid: {grid}}}}}\n"
    )
    assert guard(lambda: study.main(["--config", str(config)])) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--jobs", "0"], "--jobs is 0: expected at least 1"),
        (["--shard", "0/2"], "--shard is '0/2': expected I/N"),
        (["--shard", "3/2"], "--shard is '3/2': expected I/N"),
        (["--shard", "x"], "--shard is 'x': expected I/N"),
    ],
)
def test_arguments_that_make_no_sense_are_told(config, arguments, told, capsys):
    assert guard(lambda: study.main(["--config", str(config), *arguments])) == 2
    assert told in capsys.readouterr().err
