"""A study that is stopped ends its processes, and resumes to the same bits."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from tera_pl import cli
from tera_pl.commands import study
from tera_pl.errors import RunStoppedError
from tera_pl.studies.processes import Processes
from tests.checkpointing import test_kill
from tests.studies.conftest import STUDY

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

    def call(self, subcommand, arguments, folder, lock, is_hopeless=None):
        process = run_in_fork(subcommand, arguments)
        last = folder / "version_0" / "checkpoints" / "last.ckpt"
        test_kill.wait_for(last, process)
        process.kill()
        process.join()

    monkeypatch.setattr(Processes, "call", call)
    with pytest.raises(RunStoppedError, match="no learning rate"):
        study.main(ARGUMENTS)

    def finish(self, subcommand, arguments, folder, lock, is_hopeless=None):
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
