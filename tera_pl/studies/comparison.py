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
from tera_pl.studies.definition import ROWS, TABLE, Search, Study
from tera_pl.studies.processes import Processes
from tera_pl.studies.runs import StudyRun, finish, plan_run, resolve
from tera_pl.studies.search import (
    Candidate,
    check_installed,
    representatives,
    search_row,
    watched,
)

KIND = "study"
Row = dict[str, Any]


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
    settings = {name: _resolve(study, name, folder) for name in names}
    claim_folder(Path(study.output), KIND)
    processes = Processes()
    with processes.until_stopped():
        steps = Steps(sum(_num_runs(study, name) for name in names))
        runners = [_Runner(study, name, settings[name], processes, steps) for name in names]
        rows, failures = _compare_all(study, runners, jobs)
    return StudyResult(rows, failures, processes.received)


def _resolve(study: Study, name: str, folder: Path) -> dict[str, Any]:
    """Resolve the settings of a row, and check those that a search can draw."""
    if study.search is None:
        return resolve(study.entries[name], name, folder)
    check_installed()
    for entry in representatives(study.entries[name], study.search):
        resolve(entry, name, folder)
    return watched(resolve(study.entries[name], name, folder))


def write_results(output: Path, rows: Sequence[Row]) -> None:
    """Write the rows as JSON and as a table into the folder of the study."""
    write_atomically(output / ROWS, json.dumps(rows, indent=2) + "\n")
    write_atomically(output / TABLE, as_table(rows))


def as_table(rows: Sequence[Row]) -> str:
    """Format the rows of a study as a Markdown table."""
    unit = "" if all(row["score"] == "loss" for row in rows) else ", %"
    head = (
        f"| | score{unit} | sd | test loss | learning rate | trainable parameters | stored bytes | "
        "seconds | peak memory, MB |"
    )
    lines = [head, "|" + "---|" * 9]
    lines += [
        f"| {row['name']} | {_format(row, 'mean')} | {_format(row, 'sd')} | "
        f"{statistics.mean(row['losses']):.3f} | {row['lr']:g} | "
        f"{row['trained']:,} | {row['stored_bytes']:,} | {row['seconds']:.0f} | "
        f"{row['peak_memory_bytes'] / 2**20:.0f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def _format(row: Row, name: str) -> str:
    """Format a loss, or a score in percent: accuracies are fractions, others are percent."""
    if row["score"] == "loss":
        return f"{row[name]:.4f}"
    return f"{row[name] * (100 if row['score'].startswith('accuracy') else 1):.1f}"


def _num_runs(study: Study, name: str) -> int:
    """Count the fits of the search, and the tests; only the first seed has both."""
    if study.search is not None:
        return study.search.trials + len(study.seeds)
    return len(study.entries[name].learning_rates or study.learning_rates) + len(study.seeds)


class _Runner:
    """Runs one row of a study with given settings."""

    def __init__(
        self, study: Study, name: str, settings: dict[str, Any], processes: Processes, steps: Steps
    ) -> None:
        self.study, self.name = study, name
        self.entry = study.entries[name]
        self.folder = Path(study.output) / name
        self._settings, self._processes, self._steps = settings, processes, steps

    def plan(self, candidate: Candidate, seed: int) -> StudyRun:
        """Plan a run of a point of the search."""
        keys, values = self.entry.seed_keys, candidate.values
        return plan_run(self._settings, self.folder, candidate.lr, seed, keys, values)

    def run(
        self,
        candidate: Candidate,
        seed: int,
        *,
        test: bool,
        watch: Callable[[Path], bool] | None = None,
    ) -> dict[str, Any]:
        """Finish a run, report it, and return its results."""
        plan = self.plan(candidate, seed)
        results = finish(plan, self._processes, test=test, is_hopeless=watch)
        stage, score = ("test", f"test/{self.study.score}") if test else ("fit", "val/loss")
        found = results.get(stage, {}).get("scores", {}).get(score)
        outcome = "no result" if found is None else f"{score} {found:.4g}"
        if watch is not None and watch(plan.folder):
            outcome = "pruned"
        self._steps.report(
            f"{self.name}: {stage}, learning rate {candidate.label()}, seed {seed}: {outcome}"
        )
        return results


def _compare_all(
    study: Study, runners: Sequence[_Runner], jobs: int
) -> tuple[list[Row], list[str]]:
    """Finish every row; return those with a result, and why others have none."""
    rows, failures = [], []
    # Threads only wait for processes.
    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(_compare, study, runner) for runner in runners]
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


def _compare(study: Study, runner: _Runner) -> Row:
    """Search the learning rate of one row, then run its seeds."""
    name, hint = runner.name, f"see {runner.folder}"
    if study.search is None:
        best, tried = _search_grid(study, runner)
    else:
        best, tried = _search_by_optuna(study, study.search, runner)
    results = [runner.run(best, seed, test=True) for seed in study.seeds]
    failed = [s for s, result in zip(study.seeds, results, strict=True) if "test" not in result]
    if failed:
        raise RunStoppedError(f"{name}: no test at {best.label()} for seeds {failed}: {hint}")
    scores = [result["test"]["scores"].get(f"test/{study.score}") for result in results]
    if None in scores:
        raise RunStoppedError(
            f"{name}: the tests at {best.label()} have no score {study.score!r}: results.json of "
            f"{study.output}/{name} lists the scores, and why others are missing"
        )
    resources = results[0]["fit"]["resources"]
    return {
        "name": name,
        "score": study.score,
        "lr": best.lr,
        "values": dict(best.values),
        "search": tried,
        "scores": scores,
        "losses": [result["test"]["scores"]["test/loss"] for result in results],
        "mean": statistics.mean(scores),
        "sd": statistics.stdev(scores) if len(scores) > 1 else 0.0,
        "trained": resources["trained"],
        "stored_bytes": resources["stored_bytes"],
        "seconds": statistics.mean(r["fit"]["resources"]["train_seconds"] for r in results),
        "peak_memory_bytes": resources["peak_memory_bytes"],
    }


def _search_grid(study: Study, runner: _Runner) -> tuple[Candidate, dict[str, float | None]]:
    """Try every learning rate with the first seed."""
    rates = runner.entry.learning_rates or study.learning_rates
    seed = study.seeds[0]
    fits = {lr: runner.run(Candidate(lr, {}), seed, test=False).get("fit") for lr in rates}
    # By the loss: of a hundred answers, several rates have the same number right.
    losses = {lr: fit["scores"]["val/loss"] for lr, fit in fits.items() if fit}
    if not losses:
        raise RunStoppedError(
            f"{runner.name}: no learning rate of {rates} finished: see {runner.folder}"
        )
    best = min(losses, key=lambda lr: losses[lr] if math.isfinite(losses[lr]) else math.inf)
    return Candidate(best, {}), {f"{lr:g}": losses.get(lr) for lr in fits}


def _search_by_optuna(
    study: Study, search: Search, runner: _Runner
) -> tuple[Candidate, dict[str, float | None]]:
    """Let Optuna choose what to try with the first seed."""
    rates, seed = runner.entry.learning_rate or search.learning_rate, study.seeds[0]

    def fit(candidate: Candidate, watch: Callable[[Path], bool]) -> dict[str, Any]:
        return runner.run(candidate, seed, test=False, watch=watch)

    # What every trial of the row depends on.
    sha256 = runner.plan(Candidate(rates[0], {}), seed).sha256
    return search_row(search, rates, runner.folder, sha256, seed, fit)
