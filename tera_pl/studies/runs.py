"""The runs of a study: each belongs to the hash of its resolved settings."""

import contextlib
import fcntl
import hashlib
import io
import json
import os
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from tera_pl.callbacks.validations import VALIDATIONS
from tera_pl.checkpointing.atomic_writes import write_atomically
from tera_pl.checkpointing.markers import MARKER, claim_folder, read_marker
from tera_pl.checkpointing.run_directory import KIND as RUN
from tera_pl.checkpointing.run_directory import LOCAL
from tera_pl.cli import TeraCLI, build
from tera_pl.config.shipped import locate
from tera_pl.errors import RunStoppedError, UserError
from tera_pl.private_api.lightning import subcommand_parser
from tera_pl.studies.definition import LEARNING_RATE, SEED, Entry
from tera_pl.studies.processes import Processes

KIND = "run of a study"
LOGGER = "lightning.pytorch.loggers.TensorBoardLogger"
QUIET = {"trainer.enable_progress_bar": "false", "trainer.enable_model_summary": "false"}
# The location of a run does not change its results.
_LOCATIONS = ("logger", "default_root_dir")
DIGITS = 10  # of the hash, in a folder's name


class _SettingsCLI(TeraCLI):
    """Resolves the settings of a `fit`, defaults included; builds and runs nothing."""

    settings: dict[str, Any]

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {"fit": TeraCLI.subcommands()["fit"]}

    def _set_seed(self) -> None:
        """Do not seed: nothing is drawn."""

    def instantiate_classes(self) -> None:
        text = subcommand_parser(self, "fit").dump(self.config["fit"], skip_unset=False)
        self.settings = yaml.safe_load(text)

    def _run_subcommand(self, subcommand: str) -> None:
        """Do not run."""


@dataclass(frozen=True)
class StudyRun:
    """One run of a study.

    Args:
        folder: Its folder, in which `fit` makes the run directory `version_k`.
        settings: Its complete settings.
        sha256: Hash of everything that its results depend on: settings, and the content of the
            files that they name.
        inputs: Hashes of those files, by their path in the settings.
    """

    folder: Path
    settings: Mapping[str, Any]
    sha256: str
    inputs: Mapping[str, str]


def resolve(entry: Entry, name: str, folder: Path) -> dict[str, Any]:
    """Resolve the settings of a row: its configuration with `base:` and defaults, and `set`.

    Args:
        entry: The row.
        name: Its name, for errors.
        folder: Folder that the path of its configuration is relative to.

    Returns:
        The settings of `fit`, before the seed and the learning rate of a run are set.

    Raises:
        UserError: If they are invalid.
    """
    options = [f"--{key}={_option(value)}" for key, value in (QUIET | entry.set).items()]
    arguments = ["fit", "--config", str(folder / entry.config), *options]
    stderr = io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr):
            return build(_SettingsCLI, arguments).settings
    except SystemExit:
        reason = " ".join(stderr.getvalue().split()).removeprefix("error: ")
    except UserError as error:
        reason = str(error)
    raise UserError(f"entries.{name}: {reason}") from None


def _option(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def plan_run(
    settings: Mapping[str, Any],
    row: Path,
    lr: float,
    seed: int,
    seed_keys: list[str],
    values: Mapping[str, Any] | None = None,
) -> StudyRun:
    """Plan one run: its settings, their hash and its folder.

    Args:
        settings: Settings from `resolve`.
        row: Folder of the row.
        lr: Learning rate.
        seed: Value of `seed_everything` and of `seed_keys`.
        seed_keys: Dotted keys that are set to the seed.
        values: Values of a search, by dotted key.

    Returns:
        The run.

    Raises:
        UserError: If the settings lack one of the keys.
    """
    planned: dict[str, Any] = json.loads(json.dumps(settings))
    drawn = {LEARNING_RATE: lr, SEED: seed, **dict.fromkeys(seed_keys, seed)}
    for key, value in (drawn | dict(values or {})).items():
        _set(planned, key, value, row.name)
    trainer = planned["trainer"]
    trainer = {key: value for key, value in trainer.items() if key not in _LOCATIONS}
    inputs = _hash_inputs([planned["model"], planned["data"]], row.parent.resolve())
    hashed = json.dumps([planned | {"trainer": trainer}, inputs], sort_keys=True)
    sha256 = hashlib.sha256(hashed.encode()).hexdigest()
    label = f"lr{lr:g}-seed{seed}-{sha256[:DIGITS]}"
    _place_loggers(planned, row, label)
    return StudyRun(row / label, planned, sha256, inputs)


def _set(settings: dict[str, Any], key: str, value: Any, name: str) -> None:
    """Set a value by its dotted key."""
    *parents, last = key.split(".")
    mapping: Any = settings
    for parent in parents:
        mapping = mapping.get(parent) if isinstance(mapping, dict) else None
    if not isinstance(mapping, dict) or (parents and last not in mapping and last != "lr"):
        raise UserError(f"entries.{name}: {key} is unknown, but the study sets it for each run")
    mapping[last] = value


def _place_loggers(settings: dict[str, Any], row: Path, label: str) -> None:
    """Give the loggers that number folders the folder of the study run; others stay.

    Without one, a TensorBoardLogger comes first: its folder is the run directory.
    """
    given = settings["trainer"].get("logger")
    given = given if isinstance(given, list) else [given]
    loggers = [dict(one) for one in given if isinstance(one, dict)]
    if not any(_numbers_folders(one) for one in loggers):
        loggers.insert(0, {"class_path": LOGGER})
    place = {"save_dir": str(row), "name": label, "version": None}
    for logger in filter(_numbers_folders, loggers):
        logger["init_args"] = (logger.get("init_args") or {}) | place
    settings["trainer"] |= {
        "logger": loggers if len(loggers) > 1 else loggers[0],
        "default_root_dir": None,
    }


def _numbers_folders(logger: dict[str, Any]) -> bool:
    return issubclass(pkgutil.resolve_name(logger["class_path"]), LOCAL)


def _hash_inputs(settings: Any, output: Path) -> dict[str, str]:
    """Hash the files and folders that settings name: data, and a local base model."""
    found = {}
    for text in _texts(settings):
        path = Path(locate(text))
        # A folder that contains the results changes with every run.
        if len(text) < 4096 and "\0" not in text and path.exists():
            if output.is_relative_to(path.resolve()):
                continue
            found[text] = _hash_path(path)
    return found


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def _hash_path(path: Path) -> str:
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    total = hashlib.sha256()
    for file in files:
        state = file.stat()
        content = _hash_file(file.resolve(), state.st_size, state.st_mtime_ns)
        total.update(f"{file.relative_to(path)} {content}\n".encode())
    return total.hexdigest()


@cache
def _hash_file(path: Path, size: int, changed_ns: int) -> str:
    """Hash a file; the cache, keyed by size and time too, serves the many runs that name it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def finish(
    run: StudyRun,
    processes: Processes,
    *,
    test: bool,
    is_hopeless: Callable[[Path], bool] | None = None,
) -> dict[str, Any]:
    """Run `fit` and, on request, `test`, unless they are finished.

    A stopped run is resumed from its last checkpoint; one that was killed before its first
    checkpoint starts again in a new run directory. Nothing is removed.

    Args:
        run: The run.
        processes: Starts the processes.
        test: Whether to test its best checkpoint.
        is_hopeless: Called with `run.folder` while it is trained; True ends the training.

    Returns:
        Content of its `results.json`; empty if it is missing.

    Raises:
        UserError: If its folder is not one of this study, or its `results.json` is damaged.
        RunStoppedError: If another process runs it, or the study was stopped.
    """
    content = {"settings_sha256": run.sha256, "inputs": dict(run.inputs)}
    claim_folder(run.folder, KIND, content)
    marker = read_marker(run.folder, KIND) or {}
    if marker.get("settings_sha256") != run.sha256:
        raise UserError(f"{run.folder / MARKER} has other settings: move that folder away")
    if marker["version"] != version("tera-pl"):
        sys.stderr.write(f"{run.folder}: started with tera-pl {marker['version']}\n")
    hopeless = None if is_hopeless is None else partial(is_hopeless, run.folder)
    with locked(run.folder) as lock:
        settings = run.folder / "settings.yaml"
        write_atomically(settings, yaml.safe_dump(dict(run.settings), sort_keys=False))
        arguments = ["--config", str(settings)]
        found = _latest(run.folder)
        if "fit" not in _results(found):
            last = found / "checkpoints" / "last.ckpt" if found else None
            resume = ["--ckpt_path", str(last)] if last and last.exists() else []
            processes.call("fit", [*arguments, *resume], run.folder, lock, hopeless)
            found = _latest(run.folder)
        best = found / "checkpoints" / "best.ckpt" if found else None
        fitted = "fit" in _results(found) and "test" not in _results(found)
        if test and fitted and best and best.exists():
            processes.call("test", [*arguments, "--ckpt_path", str(best)], run.folder, lock)
        return _results(found)


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Lock a folder of a study; a process that inherits the lock keeps it if the study is killed.

    Args:
        folder: A folder with a marker file.

    Yields:
        The file descriptor of the lock.

    Raises:
        RunStoppedError: If another process has locked it.
    """
    descriptor = os.open(folder / MARKER, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield descriptor
    except BlockingIOError:
        raise RunStoppedError(f"{folder}: another process runs it") from None
    finally:
        os.close(descriptor)


def read_validations(folder: Path) -> dict[int, float]:
    """Read the losses of the validations of a run that has `ValidationScores`.

    Args:
        folder: The parent of its run directory.

    Returns:
        `val/loss` by optimizer step; empty before the first validation.
    """
    run = _latest(folder)
    path = run / VALIDATIONS if run else None
    if path is None or not path.exists():
        return {}
    rows = json.loads(path.read_text(encoding="utf-8"))
    return {row["step"]: row["val/loss"] for row in rows}


def _latest(folder: Path) -> Path | None:
    """Return the last run directory with results or a checkpoint to resume from."""
    runs = [path for path in folder.glob("version_*") if read_marker(path, RUN) is not None]
    kept = [p for p in runs if _results(p) or (p / "checkpoints" / "last.ckpt").exists()]
    return max(kept, key=lambda path: int(path.name.partition("_")[2]), default=None)


def _results(run: Path | None) -> dict[str, Any]:
    path = run / "results.json" if run else None
    if path is None or not path.exists():
        return {}
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        results = None
    if not isinstance(results, dict):
        raise UserError(f"{path} is damaged: move the folder away, and the run starts again")
    return results
