"""A study picks the rate by validation, repeats nothing that is finished, and reports failures."""

import fcntl
import json
import threading
import time

import pytest

from tera_pl.checkpointing.markers import MARKER, mark_new_folder
from tera_pl.cli import guard
from tera_pl.commands import study
from tera_pl.errors import RunStoppedError
from tera_pl.studies import comparison
from tera_pl.studies.definition import LEARNING_RATE
from tera_pl.studies.processes import Processes
from tests.studies.conftest import get


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

    def call(self, subcommand, arguments, folder, lock, is_hopeless=None):
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


def test_losses_are_shown_in_nats():
    row = {"name": "a", "mean": 3.0884, "sd": 0.00123, "losses": [1.0], "lr": 0.1, "seconds": 1.0}
    row |= {"trained": 7, "stored_bytes": 28, "peak_memory_bytes": 2**20, "score": "loss"}
    head, _, line = comparison.as_table([row]).splitlines()
    assert head.split(" | ")[1:3] == ["score", "sd"]
    assert line.split(" | ")[1:3] == ["3.0884", "0.0012"]


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

    def killed(self, subcommand, arguments, folder, lock, is_hopeless=None):
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
