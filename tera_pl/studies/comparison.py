"""Compare the rows of a study: the same learning-rate search for each, then several seeds."""

import json
import math
import signal
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tera_pl.checkpointing.atomic_writes import write_atomically
from tera_pl.checkpointing.markers import claim_folder
from tera_pl.errors import RunStoppedError, UserError
from tera_pl.progress import Steps
from tera_pl.studies.definition import ROWS, TABLE, Study
from tera_pl.studies.processes import Processes
from tera_pl.studies.runs import finish, plan_run, resolve

KIND = "study"
Row = dict[str, Any]
# Runs a row of the study with a learning rate and a seed and returns its results.
Runner = Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class StudyResult:
    """The outcome of a study.

    Args:
        rows: Rows with a result.
        failures: Why other rows have none.
        stopped_by: The signal that stopped the study, or None.
    """

    rows: list[Row]
    failures: list[str]
    stopped_by: signal.Signals | None


def run_study(study: Study, names: Sequence[str], folder: Path, jobs: int) -> StudyResult:
    """Run rows of a study; finished runs are not repeated.

    Args:
        study: The study.
        names: Names of its rows to run.
        folder: Folder that the configurations of its entries are relative to.
        jobs: Number of runs at the same time.

    Returns:
        The rows, failures, and the signal that stopped the study.

    Raises:
        UserError: If the settings of a row are invalid, before any run starts.
    """
    settings = {name: resolve(study.entries[name], name, folder) for name in names}
    claim_folder(Path(study.output), KIND)
    processes = Processes()
    with processes.until_stopped():
        steps = Steps(sum(_num_runs(study, name) for name in names))
        runners = {name: _runner(study, name, settings[name], processes, steps) for name in names}
        rows, failures = _compare_all(study, runners, jobs)
    return StudyResult(rows, failures, processes.received)


def write_results(output: Path, rows: Sequence[Row]) -> None:
    """Write the rows as JSON and as a table into the folder of the study."""
    write_atomically(output / ROWS, json.dumps(rows, indent=2) + "\n")
    write_atomically(output / TABLE, as_table(rows))


def as_table(rows: Sequence[Row]) -> str:
    """Format the rows of a study as a Markdown table."""
    head = (
        "| | score, % | sd | test loss | learning rate | trainable parameters | stored bytes | "
        "seconds | peak memory, MB |"
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


def _percent(row: Row, name: str) -> str:
    """Format a score in percent: accuracies are fractions, other scores are percent already."""
    return f"{row[name] * (100 if row['score'].startswith('accuracy') else 1):.1f}"


def _num_runs(study: Study, name: str) -> int:
    """Count the fits of the search, and the tests; only the first seed has both."""
    return len(study.entries[name].learning_rates or study.learning_rates) + len(study.seeds)


def _runner(
    study: Study, name: str, settings: dict[str, Any], processes: Processes, steps: Steps
) -> Runner:
    keys, folder = study.entries[name].seed_keys, Path(study.output) / name

    def run(lr: float, seed: int, *, test: bool) -> dict[str, Any]:
        results = finish(plan_run(settings, folder, lr, seed, keys), processes, test=test)
        stage, score = ("test", f"test/{study.score}") if test else ("fit", "val/loss")
        found = results.get(stage, {}).get("scores", {}).get(score)
        outcome = "no result" if found is None else f"{score} {found:.4g}"
        steps.report(f"{name}: {stage}, learning rate {lr:g}, seed {seed}: {outcome}")
        return results

    return run


def _compare_all(
    study: Study, runners: dict[str, Runner], jobs: int
) -> tuple[list[Row], list[str]]:
    """Finish every row; return those with a result, and why others have none."""
    rows, failures = [], []
    # Threads only wait for processes.
    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(_compare, study, name, run) for name, run in runners.items()]
        try:
            for future in futures:
                try:
                    rows.append(future.result())
                except (RunStoppedError, UserError) as error:
                    failures.append(str(error))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return rows, failures


def _compare(study: Study, name: str, run: Runner) -> Row:
    """Search the learning rate of one row, then run its seeds."""
    rates = study.entries[name].learning_rates or study.learning_rates
    hint = f"see {study.output}/{name}"
    fits = {lr: run(lr, study.seeds[0], test=False).get("fit") for lr in rates}
    # By the loss: of a hundred answers, several rates have the same number right.
    losses = {lr: fit["scores"]["val/loss"] for lr, fit in fits.items() if fit}
    if not losses:
        raise RunStoppedError(f"{name}: no learning rate of {rates} finished: {hint}")
    best = min(losses, key=lambda lr: losses[lr] if math.isfinite(losses[lr]) else math.inf)
    results = [run(best, seed, test=True) for seed in study.seeds]
    failed = [s for s, result in zip(study.seeds, results, strict=True) if "test" not in result]
    if failed:
        raise RunStoppedError(f"{name}: no test at {best:g} for seeds {failed}: {hint}")
    scores = [result["test"]["scores"].get(f"test/{study.score}") for result in results]
    if None in scores:
        raise RunStoppedError(
            f"{name}: the tests at {best:g} have no score {study.score!r}: results.json of "
            f"{study.output}/{name} lists the scores, and why others are missing"
        )
    resources = results[0]["fit"]["resources"]
    return {
        "name": name,
        "score": study.score,
        "lr": best,
        "search": {f"{lr:g}": fit and fit["scores"]["val/loss"] for lr, fit in fits.items()},
        "scores": scores,
        "losses": [result["test"]["scores"]["test/loss"] for result in results],
        "mean": statistics.mean(scores),
        "sd": statistics.stdev(scores) if len(scores) > 1 else 0.0,
        "trained": resources["trained"],
        "stored_bytes": resources["stored_bytes"],
        "seconds": statistics.mean(r["fit"]["resources"]["train_seconds"] for r in results),
        "peak_memory_bytes": resources["peak_memory_bytes"],
    }
