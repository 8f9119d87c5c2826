"""Compare configurations: the same search of the learning rate for each, then several seeds."""

import argparse
import itertools
import json
import math
import re
import shutil
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from tera_pl.errors import UserError
from tera_pl.stopped import RunStoppedError
from tera_pl.whole_files import write_whole

LEARNING_RATE = "model.init_args.optimizer.init_args.lr"


@dataclass(frozen=True)
class Entry:
    """One line of a comparison.

    Args:
        config: Its configuration, relative to the study's file.
        set: Values to override, by key.
        grid: Several values by key: every combination of them is a line of its own, with the
            values behind its name.
        seed_keys: Keys that take the seed besides `seed_everything`.
        learning_rates: Its own rates to search, if other than the study's.
    """

    config: str
    set: dict[str, Any] = field(default_factory=dict)
    grid: dict[str, list[Any]] = field(default_factory=dict)
    seed_keys: list[str] = field(default_factory=list)
    learning_rates: list[float] | None = None


@dataclass(frozen=True)
class Study:
    """A comparison.

    Args:
        output: Folder of its runs.
        entries: The lines by name.
        learning_rates: Rates that are tried for each line, on the first seed.
        seeds: Seeds of the runs with the best rate.
        score: What the test reports.
    """

    output: str
    entries: dict[str, Entry]
    learning_rates: list[float]
    seeds: list[int]
    score: str = "accuracy"


def main(args: Sequence[str]) -> int:
    """Run a study, or go on with one: runs that are finished are not repeated.

    Every run is a process of its own, `python -m tera_pl fit`, so that its peak memory is its own.

    Args:
        args: Arguments of the command.

    Returns:
        0.

    Raises:
        UserError: If the study's file is none, or an argument is.
        RunStoppedError: If runs failed, after the others are done and their table is written.
    """
    parser = argparse.ArgumentParser(prog="python -m tera_pl study", description=main.__doc__)
    parser.add_argument("--config", type=Path, required=True, help="file of the study")
    parser.add_argument("--jobs", type=int, default=1, help="lines at once, one run each")
    parser.add_argument(
        "--shard",
        metavar="I/N",
        help="every Nth line from the Ith on, so that N machines share a study; run it once more "
        "without this for the table",
    )
    options = parser.parse_args(args)
    study = read_study(options.config)
    if options.jobs < 1:
        raise UserError(f"--jobs is {options.jobs}: expected at least 1")
    names = _shard(list(study.entries), options.shard)
    rows, failures = [], []
    stopped = threading.Event()
    # Threads only wait for processes.
    pool = ThreadPoolExecutor(options.jobs)
    folder = options.config.parent
    try:
        found = [pool.submit(_compare, study, name, folder, stopped) for name in names]
        for line in found:
            try:
                rows.append(line.result())
            except RunStoppedError as error:
                failures.append(str(error))
    finally:
        # After Ctrl-C, which reaches the processes too, none is started any more.
        stopped.set()
        pool.shutdown(cancel_futures=True)
    table = as_table(rows)
    if options.shard is None:
        write_whole(Path(study.output) / "study.json", json.dumps(rows, indent=2) + "\n")
        write_whole(Path(study.output) / "table.md", table)
    sys.stdout.write(table)
    if failures:
        raise RunStoppedError(f"lines without a result: {'; '.join(failures)}")
    return 0


def read_study(path: Path) -> Study:
    """Read the file of a study.

    Args:
        path: A YAML file with the fields of `Study`.

    Returns:
        The study.

    Raises:
        UserError: If the file is missing or its fields are others.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        entries: dict[str, Entry] = {}
        for name, fields in content.pop("entries").items():
            entries |= _expand(name, Entry(**fields))
        return Study(entries=entries, **content)
    except OSError as error:
        raise UserError(f"--config: cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, TypeError, KeyError, AttributeError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(
            f"{path} is no study ({reason}): expected output, entries (each with config), "
            "learning_rates and seeds"
        ) from None


def as_table(rows: Sequence[dict[str, Any]]) -> str:
    """Lay a finished study out as a Markdown table."""
    head = (
        "| | score, % | sd | test loss | learning rate | trained | stored bytes | seconds | "
        "peak memory, MB |"
    )
    lines = [head, "|" + "---|" * 9]
    lines += [
        f"| {row['name']} | {_percent(row, 'mean')} | {_percent(row, 'sd')} | "
        f"{statistics.mean(row['losses']):.3f} | {row['lr']:g} | "
        f"{row['trained']:,} | {row['stored_bytes']:,} | {row['seconds']:.0f} | "
        f"{row['peak_memory_bytes'] / 2**20:.0f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def _percent(row: dict[str, Any], name: str) -> str:
    """Show a score in percent: accuracies are fractions, other scores are percent already."""
    return f"{row[name] * (100 if row['score'].startswith('accuracy') else 1):.1f}"


def _expand(name: str, entry: Entry) -> dict[str, Entry]:
    """Give the lines of an entry: one for each combination of its grid."""
    lines: dict[str, Entry] = {}
    for key, choices in entry.grid.items():
        if not isinstance(choices, list):
            raise UserError(f"entries.{name}.grid: {key} is {choices!r}: expected a list")
    for values in itertools.product(*entry.grid.values()):
        chosen = dict(zip(entry.grid, values, strict=True))
        shown = (f"{key.rpartition('.')[2]}={_shown(value)}" for key, value in chosen.items())
        line = " ".join([name, *shown])
        if line in lines:
            raise UserError(f"entries.{name}.grid: two lines are {line!r}: expected one each")
        lines[line] = replace(entry, set=entry.set | chosen, grid={})
    return lines


def _shown(value: Any) -> str:
    """Give a value as a part of a folder's name."""
    return re.sub(r"[^\w.,=+-]+", "", json.dumps(value).replace(":", "="))


def _shard(names: list[str], shard: str | None) -> list[str]:
    if shard is None:
        return names
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    index, count = map(int, match.groups()) if match else (0, 0)
    if not 1 <= index <= count:
        raise UserError(f"--shard is {shard!r}: expected I/N with I from 1 to N, for example 1/4")
    return names[index - 1 :: count]


def _compare(study: Study, name: str, folder: Path, stopped: threading.Event) -> dict[str, Any]:
    """Search the learning rate of one line, then run its seeds."""
    entry = study.entries[name]
    rates = entry.learning_rates or study.learning_rates

    def run(lr: float, seed: int, *, test: bool) -> dict[str, Any]:
        if stopped.is_set():
            raise RunStoppedError(f"{name}: stopped")
        return _run(study, name, folder, lr, seed, test=test)

    tried = {lr: run(lr, study.seeds[0], test=False).get("fit") for lr in rates}
    # By the loss: of 120 answers, several rates get the same number right.
    found = {lr: result["scores"]["val/loss"] for lr, result in tried.items() if result}
    if not found:
        raise RunStoppedError(
            f"{name}: no learning rate of {rates} finished: see {study.output}/{name}"
        )
    best = min(found, key=lambda lr: found[lr] if math.isfinite(found[lr]) else math.inf)
    results = [run(best, seed, test=True) for seed in study.seeds]
    failed = [s for s, result in zip(study.seeds, results, strict=True) if "test" not in result]
    if failed:
        raise RunStoppedError(
            f"{name}: no test at {best:g} for seeds {failed}: see {study.output}/{name}"
        )
    scores = [result["test"]["scores"].get(f"test/{study.score}") for result in results]
    if None in scores:
        raise RunStoppedError(
            f"{name}: the tests at {best:g} have no score {study.score!r}: results.json of "
            f"{study.output}/{name} has those that are there, and says why others are missing"
        )
    resources = results[0]["fit"]["resources"]
    return {
        "name": name,
        "score": study.score,
        "lr": best,
        "search": {
            f"{lr:g}": result and result["scores"]["val/loss"] for lr, result in tried.items()
        },
        "scores": scores,
        "losses": [result["test"]["scores"]["test/loss"] for result in results],
        "mean": statistics.mean(scores),
        "sd": statistics.stdev(scores) if len(scores) > 1 else 0.0,
        "trained": resources["trained"],
        "stored_bytes": resources["stored_bytes"],
        "seconds": statistics.mean(r["fit"]["resources"]["train_seconds"] for r in results),
        "peak_memory_bytes": resources["peak_memory_bytes"],
    }


def _run(
    study: Study, name: str, folder: Path, lr: float, seed: int, *, test: bool
) -> dict[str, Any]:
    """Fit, and test if asked for, unless that is done already; give the run's results."""
    run = Path(study.output) / name / _label(lr, seed) / "version_0"
    common = run_arguments(study, name, folder, lr, seed)
    if "fit" not in _results(run):
        # What a killed run left would push this one to another version.
        shutil.rmtree(run, ignore_errors=True)
        _call("fit", common, run)
    best = run / "checkpoints" / "best.ckpt"
    if test and "test" not in _results(run) and best.exists():
        _call("test", [*common, "--ckpt_path", str(best)], run)
    return _results(run)


def run_arguments(study: Study, name: str, folder: Path, lr: float, seed: int) -> list[str]:
    """Give the arguments of `fit` for one run of a study.

    Args:
        study: The study.
        name: Its line.
        folder: Where its configurations are.
        lr: Learning rate.
        seed: Seed of everything, and of the line's `seed_keys`.

    Returns:
        Arguments of the command line.
    """
    entry = study.entries[name]
    values = {
        LEARNING_RATE: f"{lr:g}",
        "seed_everything": seed,
        "trainer.logger.init_args.save_dir": Path(study.output) / name,
        "trainer.logger.init_args.name": _label(lr, seed),
        "trainer.enable_progress_bar": "false",
        "trainer.enable_model_summary": "false",
        **entry.set,
        **dict.fromkeys(entry.seed_keys, seed),
    }
    return ["--config", str(folder / entry.config), *_options(values)]


def _label(lr: float, seed: int) -> str:
    return f"lr{lr:g}-seed{seed}"


def _options(values: dict[str, Any]) -> Iterator[str]:
    for key, value in values.items():
        yield f"--{key}={value if isinstance(value, str | Path) else json.dumps(value)}"


def _results(run: Path) -> dict[str, Any]:
    path = run / "results.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _call(verb: str, arguments: list[str], run: Path) -> None:
    """Run a command; a failed one is told and leaves its output beside the run."""
    command = [sys.executable, "-m", "tera_pl", verb, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        run.parent.mkdir(parents=True, exist_ok=True)
        log = run.parent / f"{verb}.log"
        log.write_text(done.stdout + done.stderr, encoding="utf-8")
        sys.stderr.write(f"{run.parent}: {verb} failed ({done.returncode}), see {log}\n")
    else:
        sys.stderr.write(f"{run.parent}: {verb} done\n")
