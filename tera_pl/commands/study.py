"""Compare configurations: the same search of the learning rate for each, then several seeds."""

import json
import math
import re
import shlex
import statistics
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tera_pl.checkpointing.atomic_writes import write_atomically
from tera_pl.checkpointing.markers import claim_folder
from tera_pl.commands.arguments import Parser
from tera_pl.errors import RunStoppedError, UserError
from tera_pl.studies.definition import ROWS, TABLE, Study, read_study
from tera_pl.studies.processes import Processes
from tera_pl.studies.runs import finish, plan_run, resolve

KIND = "study"
Row = dict[str, Any]
# Gives the results of a run with this learning rate and seed.
Run = Callable[..., dict[str, Any]]


def main(args: Sequence[str]) -> int:
    """Run a study, or resume one: runs that are finished are not repeated.

    Every run is a process of its own, `python -m tera_pl fit`, so that its peak memory is its own.
    It belongs to the hash of its resolved settings and of the files they name: an entry that was
    edited has other runs, in folders of their own, and the older ones stay.

    Args:
        args: Arguments of the command.

    Returns:
        0, or 128 and the number of the signal that stopped it.

    Raises:
        UserError: If the study's file or an argument is invalid, or settings of an entry are.
        RunStoppedError: If runs failed, after the others are done and their table is written.
    """
    parser = Parser("study", main.__doc__)
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
    folder = options.config.parent
    # All of them before the first starts: none fails hours later for a misspelt key.
    settings = {name: resolve(study.entries[name], name, folder) for name in names}
    output = Path(study.output)
    claim_folder(output, KIND)
    processes = Processes()
    with processes.until_stopped():
        lines = {n: _runs_of(study, n, found, processes) for n, found in settings.items()}
        rows, failures = _compare_all(study, lines, options.jobs)
    if processes.received:
        again = shlex.join(["python", "-m", "tera_pl", "study", *args])
        sys.stderr.write(f"stopped: {processes.received.name}; to resume: {again}\n")
        return 128 + processes.received
    table = as_table(rows)
    if options.shard is None:
        write_atomically(output / ROWS, json.dumps(rows, indent=2) + "\n")
        write_atomically(output / TABLE, table)
    sys.stdout.write(table)
    if failures:
        raise RunStoppedError(f"lines without a result: {'; '.join(failures)}")
    return 0


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


def _shard(names: list[str], shard: str | None) -> list[str]:
    if shard is None:
        return names
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    index, count = map(int, match.groups()) if match else (0, 0)
    if not 1 <= index <= count:
        raise UserError(f"--shard is {shard!r}: expected I/N with I from 1 to N, for example 1/4")
    return names[index - 1 :: count]


def _runs_of(study: Study, name: str, settings: Row, processes: Processes) -> Run:
    """Give what runs a line with one learning rate and seed."""
    keys, line = study.entries[name].seed_keys, Path(study.output) / name

    def run(lr: float, seed: int, *, test: bool) -> dict[str, Any]:
        return finish(plan_run(settings, line, lr, seed, keys), processes, test=test)

    return run


def _compare_all(study: Study, lines: dict[str, Run], jobs: int) -> tuple[list[Row], list[str]]:
    """Finish every line; give the rows of those with a result, and why others have none."""
    rows, failures = [], []
    # Threads only wait for processes.
    with ThreadPoolExecutor(jobs) as pool:
        found = [pool.submit(_compare, study, name, run) for name, run in lines.items()]
        try:
            for line in found:
                try:
                    rows.append(line.result())
                except (RunStoppedError, UserError) as error:
                    failures.append(str(error))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return rows, failures


def _compare(study: Study, name: str, run: Run) -> Row:
    """Search the learning rate of one line, then run its seeds."""
    rates = study.entries[name].learning_rates or study.learning_rates
    where = f"see {study.output}/{name}"
    tried = {lr: run(lr, study.seeds[0], test=False).get("fit") for lr in rates}
    # By the loss: of 120 answers, several rates get the same number right.
    found = {lr: result["scores"]["val/loss"] for lr, result in tried.items() if result}
    if not found:
        raise RunStoppedError(f"{name}: no learning rate of {rates} finished: {where}")
    best = min(found, key=lambda lr: found[lr] if math.isfinite(found[lr]) else math.inf)
    results = [run(best, seed, test=True) for seed in study.seeds]
    failed = [s for s, result in zip(study.seeds, results, strict=True) if "test" not in result]
    if failed:
        raise RunStoppedError(f"{name}: no test at {best:g} for seeds {failed}: {where}")
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
