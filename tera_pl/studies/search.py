"""Search the learning rate and other settings of a row by Optuna, which prunes by `val/loss`."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tera_pl.checkpointing.markers import claim_folder
from tera_pl.errors import RunStoppedError, UserError
from tera_pl.extras import require
from tera_pl.studies.definition import Entry, Range, Search
from tera_pl.studies.runs import DIGITS, locked, read_validations

KIND = "search of a study"
JOURNAL = "journal.log"
CALLBACK = "tera_pl.callbacks.ValidationScores"
# In Optuna's parameters, beside dotted keys.
RATE = "learning_rate"
# Marks a trial whose run failed, unlike one that was interrupted.
FAILED = "failed"


@dataclass(frozen=True)
class Candidate:
    """A point of a search.

    Args:
        lr: Its learning rate.
        values: Its other settings, by dotted key.
    """

    lr: float
    values: Mapping[str, Any]

    def label(self) -> str:
        """Name the point in the results of a study."""
        parts = (f"{key.rpartition('.')[2]}={value}" for key, value in self.values.items())
        return " ".join([f"{self.lr:g}", *parts])


# Trains a candidate and returns its `results.json`. The second argument is called with
# `StudyRun.folder` while it is trained and afterwards; where it returns True, training may end.
Fit = Callable[[Candidate, Callable[[Path], bool]], dict[str, Any]]


def check_installed() -> None:
    """Refuse a search without Optuna.

    Raises:
        UserError: If it is not installed.
    """
    require("optuna", "search")


def watched(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Add the callback by which a search watches a run.

    Args:
        settings: Settings of `fit`.

    Returns:
        A copy with the callback.
    """
    trainer = settings["trainer"]
    given = trainer.get("callbacks") or []
    callbacks = [*(given if isinstance(given, list) else [given]), {"class_path": CALLBACK}]
    return {**settings, "trainer": {**trainer, "callbacks": callbacks}}


def representatives(entry: Entry, search: Search) -> list[Entry]:
    """Give entries that together have every choice and the ends of every range, to check them.

    Args:
        entry: A row.
        search: The search.

    Returns:
        As many entries as the longest list of choices has.
    """
    values = {
        key: [found.low, found.high] if isinstance(found, Range) else found
        for key, found in search.space.items()
    }
    number = max(map(len, values.values()), default=1)
    chosen = [
        {k: choices[i % len(choices)] for k, choices in values.items()} for i in range(number)
    ]
    return [replace(entry, set=entry.set | some) for some in chosen]


def search_row(
    search: Search, rates: list[float], row: Path, sha256: str, seed: int, fit: Fit
) -> tuple[Candidate, dict[str, float | None]]:
    """Search one row by asking Optuna for trials; finished trials are not repeated.

    A trial depends on the results of those before it, on `seed` and on its number alone, so that an
    interrupted search continues as an uninterrupted one.

    Args:
        search: The search.
        rates: The smallest and the largest learning rate.
        row: Folder of the row, in which the trials have a folder of their own.
        sha256: Hash of the settings and the files of the row.
        seed: Seed of the sampler.
        fit: Trains a candidate.

    Returns:
        The best candidate, and `val/loss` at the end of each trial by the name of its candidate;
        None where the trial was pruned or failed.

    Raises:
        UserError: If the journal is damaged.
        RunStoppedError: If another process searches the row, or no trial finished.
    """
    dimensions = {k: v for k, v in asdict(search).items() if k != "trials"} | {RATE: rates}
    # In the order of the file: Optuna's samplers draw in the order in which they are asked.
    digest = hashlib.sha256(json.dumps([sha256, dimensions, seed]).encode()).hexdigest()
    folder = row / f"search-{digest[:DIGITS]}"
    claim_folder(folder, KIND)
    with locked(folder):
        trials = _Trials(search, rates, folder, seed)
        while trials.number_done() < search.trials:
            trials.run_next(fit)
    return trials.results(row)


class _Trials:
    """The trials of one row, kept in a journal."""

    def __init__(self, search: Search, rates: list[float], folder: Path, seed: int) -> None:
        import optuna
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna, self._states = optuna, optuna.trial.TrialState
        self._search, self._rates, self._seed = search, rates, seed
        pruner = optuna.pruners.MedianPruner(n_startup_trials=search.startup_trials)
        path = folder / JOURNAL
        try:
            self._study = optuna.create_study(
                storage=optuna.storages.JournalStorage(JournalFileBackend(str(path))),
                study_name=folder.name,
                direction="minimize",
                load_if_exists=True,
                pruner=pruner if search.pruning else optuna.pruners.NopPruner(),
            )
        except (ValueError, KeyError) as error:
            raise UserError(
                f"{path} is damaged ({error}): move it away to search again; finished runs are kept"
            ) from error
        self._submit_interrupted()

    def _submit_interrupted(self) -> None:
        """Ask for trials again that an earlier process began and did not finish."""
        for trial in self._study.get_trials(states=[self._states.RUNNING]):
            self._study.tell(trial.number, state=self._states.FAIL)
            # Else it was interrupted before all of its values were drawn.
            if trial.params.keys() == {RATE, *self._search.space}:
                self._study.enqueue_trial(trial.params)

    def number_done(self) -> int:
        """Count trials that finished, were pruned or failed."""
        return len(self._done())

    def _done(self) -> list[Any]:
        ended = (self._states.COMPLETE, self._states.PRUNED)
        return [t for t in self._study.trials if t.state in ended or t.user_attrs.get(FAILED)]

    def run_next(self, fit: Fit) -> None:
        """Ask for a trial, run it, and report how it ended."""
        self._study.sampler = self._optuna.samplers.TPESampler(
            n_startup_trials=self._search.startup_trials, seed=self._seed + self.number_done()
        )
        trial = self._study.ask()
        watch = _Watch(trial)
        results = fit(self._suggest(trial), watch)
        # By the losses alone, however fast the process was: a search is repeatable.
        if watch.is_pruned:
            self._study.tell(trial, state=self._states.PRUNED)
        elif "fit" in results:
            loss = results["fit"]["scores"]["val/loss"]
            self._study.tell(trial, loss if math.isfinite(loss) else math.inf)
        else:
            trial.set_user_attr(FAILED, True)
            self._study.tell(trial, state=self._states.FAIL)

    def _suggest(self, trial: Any) -> Candidate:
        lr = trial.suggest_float(RATE, *self._rates, log=True)
        values = {}
        for key, found in self._search.space.items():
            if not isinstance(found, Range):
                # As text: Optuna stores no lists and mappings.
                text = trial.suggest_categorical(key, [json.dumps(choice) for choice in found])
                values[key] = json.loads(text)
            elif isinstance(found.low, int) and isinstance(found.high, int):
                values[key] = trial.suggest_int(key, found.low, found.high, log=found.log)
            else:
                values[key] = trial.suggest_float(key, found.low, found.high, log=found.log)
        return Candidate(lr, values)

    def results(self, row: Path) -> tuple[Candidate, dict[str, float | None]]:
        """Give the best candidate and the loss of every trial."""
        done = [(self._candidate(t.params), t) for t in self._done()]
        # Optuna gives a pruned trial its last loss as value.
        losses = [t.value if t.state == self._states.COMPLETE else None for _, t in done]
        tried = {found.label(): loss for (found, _), loss in zip(done, losses, strict=True)}
        complete = [
            (loss, found)
            for (found, _), loss in zip(done, losses, strict=True)
            if loss is not None and math.isfinite(loss)
        ]
        if not complete:
            raise RunStoppedError(f"{row.name}: no trial of {len(done)} finished: see {row}")
        return min(complete, key=lambda found: found[0])[1], tried

    def _candidate(self, params: Mapping[str, Any]) -> Candidate:
        values = {
            key: params[key] if isinstance(found, Range) else json.loads(params[key])
            for key, found in self._search.space.items()
        }
        return Candidate(params[RATE], values)


class _Watch:
    """Report the losses of a run to its trial until the trial is to be pruned."""

    def __init__(self, trial: Any) -> None:
        self.is_pruned = False
        self._trial = trial
        self._reported: set[int] = set()

    def __call__(self, run: Path) -> bool:
        for step, loss in sorted(read_validations(run).items()):
            if not self.is_pruned and step not in self._reported:
                self._reported.add(step)
                self._trial.report(loss, step)
                self.is_pruned = self._trial.should_prune()
        return self.is_pruned
