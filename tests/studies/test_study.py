"""A study picks the rate by validation, repeats nothing that is finished, and reports failures."""

import fcntl
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import yaml

from tera_pl import cli
from tera_pl.checkpointing.markers import MARKER, mark_new_folder
from tera_pl.cli import guard
from tera_pl.commands import study
from tera_pl.errors import RunStoppedError, UserError
from tera_pl.studies import comparison
from tera_pl.studies.definition import LEARNING_RATE, read_study
from tera_pl.studies.processes import Processes
from tera_pl.studies.runs import plan_run, resolve
from tests.checkpointing import test_kill


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

    def call(self, subcommand, arguments, folder, lock):
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


def test_the_learning_rate_is_chosen_by_validation_with_the_first_seed(config, calls, tmp_path):
    assert study.main(["--config", str(config)]) == 0
    ran = [(subcommand, v["seed_everything"], get(v, LEARNING_RATE)) for subcommand, v, _ in calls]
    assert [run[1:] for run in ran if run[0] == "fit"] == [(3, 0.1), (3, 0.2), (3, 0.4), (4, 0.2)]
    assert [run[1:] for run in ran if run[0] == "test"] == [(3, 0.2), (4, 0.2)]
    assert all(v["x"]["seed"] == v["seed_everything"] for _, v, _ in calls)
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


def skip_where(monkeypatch, skipped):
    """Let some runs fail: they leave nothing."""
    good = Processes.call

    def call(self, subcommand, arguments, folder, lock):
        if not skipped(folder):
            good(self, subcommand, arguments, folder, lock)

    monkeypatch.setattr(Processes, "call", call)


def test_a_failed_run_is_reported_and_omitted(config, calls, monkeypatch):
    skip_where(monkeypatch, lambda folder: "lr0.2" in folder.name)
    study.main(["--config", str(config)])
    assert {get(v, LEARNING_RATE) for subcommand, v, _ in calls if subcommand == "test"} == {0.1}
    skip_where(monkeypatch, lambda folder: True)
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
    table = comparison.as_table(
        [row | {"score": "accuracy_average"}, row | {"score": "average", "mean": 47.69}]
    )
    assert [line.split(" | ")[1:3] for line in table.splitlines()[2:]] == [
        ["50.0", "25.0"],
        ["47.7", "0.2"],
    ]


def test_a_failed_seed_fails_its_line_alone(config, calls, monkeypatch, tmp_path):
    config.write_text(config.read_text() + "  b: {config: b.yaml}\n")
    skip_where(monkeypatch, lambda folder: "out/a" in str(folder) and "seed4" in folder.name)
    with pytest.raises(RunStoppedError, match=r"a: no test at 0.2 for seeds \[4\]"):
        study.main(["--config", str(config)])
    (row,) = json.loads((tmp_path / "out" / "study.json").read_text())
    assert row["name"] == "b"


def test_an_edited_entry_has_runs_of_its_own(config, calls, tmp_path):
    study.main(["--config", str(config)])
    first = {p: p.read_bytes() for p in (tmp_path / "out" / "a").rglob("*") if p.is_file()}
    done = len(calls)
    config.write_text(config.read_text().replace("x.y: 5", "x.y: 6"))
    study.main(["--config", str(config)])
    assert len(calls) == 2 * done
    assert {v["set"]["x.y"] for _, v, _ in calls[done:]} == {6}
    assert all(p.read_bytes() == content for p, content in first.items())
    config.write_text(config.read_text().replace("x.y: 6", "x.y: 5"))
    study.main(["--config", str(config)])
    assert len(calls) == 2 * done


def test_a_killed_run_resumes_from_its_last_checkpoint(config, calls, tmp_path, monkeypatch):
    config.write_text(config.read_text().replace("[0.1, 0.2, 0.4]", "[0.2]"))
    good = Processes.call

    def killed(self, subcommand, arguments, folder, lock):
        mark_new_folder(folder / "version_0", "run")
        (folder / "version_0" / "checkpoints").mkdir()
        (folder / "version_0" / "checkpoints" / "last.ckpt").touch()
        (folder / "version_0" / "events").write_text("curves")

    monkeypatch.setattr(Processes, "call", killed)
    with pytest.raises(RunStoppedError):
        study.main(["--config", str(config)])
    monkeypatch.setattr(Processes, "call", good)
    study.main(["--config", str(config)])
    (folder,) = (tmp_path / "out" / "a").glob("*-seed3-*")
    last = folder / "version_0" / "checkpoints" / "last.ckpt"
    assert calls[0][2] == ["--ckpt_path", str(last.relative_to(tmp_path))]
    assert (folder / "version_0" / "events").read_text() == "curves"


def test_what_the_study_did_not_write_is_not_touched(config, calls, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "table.md").write_text("years")
    assert guard(lambda: study.main(["--config", str(config)])) == 2
    assert "out is there and was not written as a study" in capsys.readouterr().err
    assert not calls
    (tmp_path / "out" / "table.md").unlink()
    study.main(["--config", str(config)])
    # A folder of the user where the next run would be, and a manifest of other settings.
    runs = sorted(path for path in (tmp_path / "out" / "a").iterdir())
    for name in (MARKER, "settings.yaml"):
        (runs[0] / name).unlink()
    marker = json.loads((runs[1] / MARKER).read_text())
    (runs[1] / MARKER).write_text(json.dumps(marker | {"settings_sha256": "0" * 64}))
    done = len(calls)
    assert guard(lambda: study.main(["--config", str(config)])) == 1
    assert "was not written as a run of a study" in capsys.readouterr().err
    assert len(calls) == done
    assert (runs[0] / "version_0" / "results.json").exists()


def test_a_run_of_another_process_is_skipped(config, calls, tmp_path):
    study.main(["--config", str(config)])
    held = min((tmp_path / "out" / "a").iterdir()) / MARKER
    # A lock belongs to the open file: another one in this process is as good as another process.
    with held.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(RunStoppedError, match="another process runs it"):
            study.main(["--config", str(config)])
    assert study.main(["--config", str(config)]) == 0


STUDY = """
output: out
learning_rates: [0.1]
seeds: [3]
entries: {a: {config: a.yaml}}
"""
INVALID = {
    "": "output is missing: expected output, entries",
    "[1]": "",
    "{": "",
    "output: x": "entries is missing",
    STUDY + "extra: 1": "extra is unknown: expected output",
    STUDY.replace("seeds", "seed"): "seed is unknown: did you mean seeds?",
    STUDY.replace(
        "config: a.yaml", "configs: a.yaml"
    ): "entries.a.configs is unknown: did you mean",
    STUDY.replace("{config: a.yaml}", "a.yaml"): "entries.a is 'a.yaml': expected a mapping",
    STUDY.replace("a.yaml", "none.yaml"): "entries.a.config: no file",
    STUDY.replace("a.yaml", "[a.yaml]"): "entries.a.config is ['a.yaml']: expected a text",
    STUDY.replace("{a:", "{../victim:"): "'../victim' is an invalid name",
    STUDY.replace("{a:", "{/tmp/x:"): "'/tmp/x' is an invalid name",
    STUDY.replace("{a:", "{.a:"): "'.a' is an invalid name",
    STUDY.replace("{a:", '{"a ":'): "'a ' is an invalid name",
    STUDY.replace("{a:", '{"a\\0":'): "is an invalid name",
    STUDY.replace("{a:", "{table.md:"): "'table.md' is an invalid name",
    STUDY.replace("{a:", "{" + 201 * "a" + ":"): "is longer than 200 bytes",
    STUDY.replace("output: out", "output: ."): "output is '.', the current folder or one above",
    STUDY.replace("output: out", "output: /"): "output is '/', the current folder or one above",
    STUDY.replace("output: out", "output: 5"): "output is 5: expected a text",
    STUDY.replace("[0.1]", "0.1"): "learning_rates is 0.1: expected a list of positive numbers",
    STUDY.replace("[0.1]", "[fast]"): "learning_rates[0] is 'fast': expected positive numbers",
    STUDY.replace("[0.1]", "[-0.1]"): "learning_rates[0] is -0.1: expected positive numbers",
    STUDY.replace("[0.1]", "[.nan]"): "learning_rates[0] is nan: expected positive numbers",
    STUDY.replace("[0.1]", "[]"): "learning_rates is []: expected a list",
    STUDY.replace("[0.1]", "[0.1, 0.1]"): "learning_rates has 0.1 twice",
    STUDY.replace("[3]", "[3.5]"): "seeds[0] is 3.5: expected integers",
    STUDY.replace("[3]", "[true]"): "seeds[0] is True: expected integers",
    STUDY.replace("a.yaml}", "a.yaml, set: [1]}"): "entries.a.set is [1]: expected values by",
    STUDY.replace("a.yaml}", "a.yaml, set: {1: 2}}"): "",
    STUDY.replace(
        "a.yaml}", "a.yaml, set: {seed_everything: 2}}"
    ): "a.set: seed_everything is set by the",
    STUDY.replace("a.yaml}", "a.yaml, seed_keys: x}"): "entries.a.seed_keys is 'x': expected a li",
    STUDY.replace("a.yaml}", "a.yaml, learning_rates: [a]}"): "entries.a.learning_rates[0] is 'a'",
    STUDY.replace("a.yaml}", "a.yaml, grid: {x.y: uniform}}"): "x.y is 'uniform': expected a list",
    STUDY.replace("a.yaml}", "a.yaml, grid: {x.y: [ab, a b]}}"): "two rows are 'a y=ab'",
}


@pytest.mark.parametrize("text", INVALID)
def test_an_invalid_study_is_one_line_that_names_the_key(config, text, capsys):
    config.write_text(text)
    assert guard(lambda: study.main(["--config", str(config)])) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "study.yaml" in line
    assert INVALID[text] in line
    assert sorted(path.name for path in config.parent.iterdir()) == [
        "a.yaml",
        "b.yaml",
        "study.yaml",
    ]


def test_a_grid_is_a_line_for_each_combination(config):
    config.write_text(
        "output: out\nlearning_rates: [0.1]\nseeds: [3]\nentries:\n"
        "  a:\n    config: a.yaml\n    set: {x.z: 1}\n"
        "    grid: {x.y: [1, 2], x.sizes: [[4, 8], {q: 3}]}\n"
    )
    entries = read_study(config).entries
    assert {name: entry.set for name, entry in entries.items()} == {
        "a y=1 sizes=4,8": {"x.z": 1, "x.y": 1, "x.sizes": [4, 8]},
        "a y=1 sizes=q=3": {"x.z": 1, "x.y": 1, "x.sizes": {"q": 3}},
        "a y=2 sizes=4,8": {"x.z": 1, "x.y": 2, "x.sizes": [4, 8]},
        "a y=2 sizes=q=3": {"x.z": 1, "x.y": 2, "x.sizes": {"q": 3}},
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
        shards.append({v["trainer"]["logger"]["init_args"]["save_dir"] for _, v, _ in calls[done:]})
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
    good, count, running, most = Processes.call, threading.Lock(), 0, 0

    def call(self, *arguments):
        nonlocal running, most
        with count:
            running += 1
            most = max(most, running)
        time.sleep(0.005)
        with count:
            good(self, *arguments)
            running -= 1

    monkeypatch.setattr(Processes, "call", call)
    study.main(["--config", str(config), "--jobs", "2"])
    assert most == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--jobs", "0"], "--jobs is 0: expected at least 1"),
        (["--shard", "0/2"], "--shard is '0/2': expected I/N"),
        (["--shard", "3/2"], "--shard is '3/2': expected I/N"),
        (["--shard", "x"], "--shard is 'x': expected I/N"),
    ],
)
def test_invalid_arguments_are_errors(config, arguments, message, capsys):
    assert guard(lambda: study.main(["--config", str(config), *arguments])) == 2
    assert message in capsys.readouterr().err


def plan(entry, name, folder, lr=0.1, seed=1):
    return plan_run(resolve(entry, name, folder), Path("out") / name, lr, seed, entry.seed_keys)


@pytest.mark.slow
def test_the_hash_is_of_all_that_results_depend_on(tiny_config, tiny_commonsense, tmp_path):
    """Settings after `base:` and `set`, and the content of data and base model; no more."""
    data = tmp_path / "data"
    shutil.copytree(tiny_commonsense, data)
    child = tmp_path / "child.yaml"
    child.write_text(f"# one\nbase: [{tiny_config.name}]\ndata: {{init_args: {{path: {data}}}}}\n")
    (tmp_path / "study.yaml").write_text(STUDY.replace("a.yaml", "child.yaml"))
    (entry,) = read_study(tmp_path / "study.yaml").entries.values()
    first = plan(entry, "a", tmp_path)
    assert first.folder == Path(f"out/a/lr0.1-seed1-{first.sha256[:10]}")
    assert get(first.settings, LEARNING_RATE) == 0.1
    assert set(first.inputs) == {
        str(data),
        str(get(first.settings, "model.init_args.backbone.path")),
    }
    child.write_text(child.read_text().replace("# one", "# two"))
    assert plan(entry, "renamed", tmp_path).sha256 == first.sha256
    others = {plan(entry, "a", tmp_path, lr=0.2).sha256, plan(entry, "a", tmp_path, seed=2).sha256}
    others.add(plan(entry, "a", tmp_path, lr=0.1000001).sha256)
    text = tiny_config.read_text()
    tiny_config.write_text(text.replace("warmup_steps: 2", "warmup_steps: 3"))
    others.add(plan(entry, "a", tmp_path).sha256)
    tiny_config.write_text(text)
    assert plan(entry, "a", tmp_path).sha256 == first.sha256
    file = data / "openbookqa" / "train.json"
    file.write_text(file.read_text().replace("green", "white", 1))
    others.add(plan(entry, "a", tmp_path).sha256)
    assert len(others | {first.sha256}) == 6
    for changed, message in (
        ({"trainer.max_stops": 1}, "entries.a: .*max_stops"),
        ({"trainer.max_steps": "many"}, "entries.a: .*max_steps"),
    ):
        with pytest.raises(UserError, match=message):
            resolve(type(entry)(entry.config, changed), "a", tmp_path)
    with pytest.raises(UserError, match=r"entries.a: data.init_args.sead is unknown"):
        plan(type(entry)(entry.config, seed_keys=["data.init_args.sead"]), "a", tmp_path)


# Children that note what they get: `fit` saves at SIGTERM, and has a child of its own.
CHILD = """
import pathlib, signal, subprocess, sys, time
name, folder = sys.argv[1], pathlib.Path(sys.argv[2])
def save(*_):
    (folder / "saved").touch()
    sys.exit(1)
saves = name == "fit" and "--stubborn" not in sys.argv
signal.signal(signal.SIGTERM, save if saves else signal.SIG_IGN)
own = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
(folder / "pids").write_text(f"{own.pid}")
(folder / "ready").touch()
time.sleep(60)
"""
# A shell that starts jobs in the background lets them ignore SIGINT.
LISTEN = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
PARENT = (
    LISTEN
    + """
import os, pathlib, sys, threading
from tera_pl.studies import processes
from tera_pl.errors import RunStoppedError
processes.COMMAND = (sys.executable, "-c", sys.argv[1])
folder, name, *more = sys.argv[2:]
runs = processes.Processes()
def call():
    try:
        runs.call(name, [folder, *more], pathlib.Path(folder), os.open(folder, os.O_RDONLY))
    except RunStoppedError as error:
        print(error)
with runs.until_stopped():
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
sys.exit(128 + runs.received)
"""
)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize(
    ("name", "signals", "saved"),
    [
        ("fit", [signal.SIGTERM], True),
        ("fit", [signal.SIGINT], True),
        ("test", [signal.SIGTERM], False),
        ("fit --stubborn", [signal.SIGTERM, signal.SIGINT], False),
    ],
)
def test_a_signal_ends_the_processes_and_what_they_started(name, signals, saved, tmp_path):
    arguments = [sys.executable, "-c", PARENT, CHILD, str(tmp_path), *name.split()]
    parent = subprocess.Popen(arguments, stderr=subprocess.PIPE)
    wait_for(tmp_path / "ready", parent)
    for number in signals:
        time.sleep(0.1)
        parent.send_signal(number)
    stderr = parent.communicate(timeout=30)[1].decode()
    assert parent.returncode == 128 + signals[0], stderr
    assert f"{signals[0].name}: runs save and end" in stderr
    assert (tmp_path / "saved").exists() == saved
    assert not alive(int((tmp_path / "pids").read_text()))


def wait_for(path, process):
    deadline = time.monotonic() + 240
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    assert path.exists()


def run_in_fork(subcommand, arguments):
    """Start a process that has imported everything already."""
    return test_kill.start(Path.cwd(), subcommand, *arguments)


def stop_in_fork(monkeypatch):
    """Run a study whose `fit` is killed after its first checkpoint."""

    def call(self, subcommand, arguments, folder, lock):
        process = run_in_fork(subcommand, arguments)
        last = folder / "version_0" / "checkpoints" / "last.ckpt"
        test_kill.wait_for(last, process)
        process.kill()
        process.join()

    monkeypatch.setattr(Processes, "call", call)
    with pytest.raises(RunStoppedError, match="no learning rate"):
        study.main(ARGUMENTS)

    def finish(self, subcommand, arguments, folder, lock):
        process = run_in_fork(subcommand, arguments)
        process.join()
        assert process.exitcode == 0

    monkeypatch.setattr(Processes, "call", finish)


def interrupt_in_terminal(monkeypatch):
    """Run a study that gets what Ctrl-C sends, after the first checkpoint."""
    code = f"{LISTEN}import runpy; runpy.run_module('tera_pl', run_name='__main__', alter_sys=True)"
    with Path("output.txt").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", code, "study", *ARGUMENTS], stderr=output, stdout=output
        )
    (line,) = iter_until(lambda: list(Path("out").glob("a/*")), process)
    wait_for(line / "version_0" / "checkpoints" / "last.ckpt", process)
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 130
    text = Path("output.txt").read_text()
    assert text.splitlines()[-1] == (
        "stopped: SIGINT; to resume: python -m tera_pl study --config study.yaml"
    )
    assert "Traceback" not in text


ARGUMENTS = ["--config", "study.yaml"]
# The second starts five processes that import everything.
STOPS = [stop_in_fork, *([interrupt_in_terminal] if test_kill.SOAK else [])]


@pytest.mark.slow
@pytest.mark.parametrize("stop", STOPS)
def test_a_stopped_study_is_resumed_to_the_same_bits(stop, tiny_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_config.write_text(tiny_config.read_text().replace("max_steps: 8", "max_steps: 60"))
    Path("study.yaml").write_text(STUDY.replace("a.yaml", "config.yaml"))
    stop(monkeypatch)
    (line,) = Path("out").glob("a/*")
    last = line / "version_0" / "checkpoints" / "last.ckpt"
    assert 0 < torch.load(last, weights_only=True)["global_step"] < 60
    assert not (line / "version_0" / "results.json").exists()
    assert study.main(ARGUMENTS) == 0
    assert (line / "version_0" / "config_fit.yaml").exists()
    assert not (line / "version_1").exists()
    settings = yaml.safe_load((line / "settings.yaml").read_text())
    settings["trainer"]["logger"]["init_args"] |= {"save_dir": "uninterrupted", "name": "run"}
    Path("uninterrupted.yaml").write_text(yaml.safe_dump(settings))
    assert cli.main(["fit", "--config", "uninterrupted.yaml"]) == 0
    resumed, uninterrupted = (
        torch.load(path / "checkpoints" / "last.ckpt", weights_only=True)
        for path in (line / "version_0", Path("uninterrupted/run/version_0"))
    )
    assert uninterrupted["global_step"] == resumed["global_step"] == 60
    for name, value in uninterrupted["state_dict"].items():
        assert torch.equal(resumed["state_dict"][name], value)
    (row,) = json.loads(Path("out/study.json").read_text())
    assert row["name"] == "a"
    # Finished: nothing runs again.
    before = last.stat().st_mtime_ns
    assert study.main(ARGUMENTS) == 0
    assert last.stat().st_mtime_ns == before


def iter_until(find, process):
    deadline = time.monotonic() + 240
    while not (found := find()) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    return found
