"""The loggers of a run: several share its directory, and a resumed run continues with them."""

import csv
import inspect
import os
import pkgutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.loggers import CSVLogger, Logger

from tera_pl.checkpointing.markers import read_marker
from tera_pl.checkpointing.run_directory import KIND, LOCAL
from tera_pl.checkpointing.service_runs import CONTINUED_BY, known_runs

PLACE = ("save_dir", "name", "version")


def run_of(checkpoint: str | None) -> Path | None:
    """Give the run directory of a checkpoint.

    Args:
        checkpoint: Path of the checkpoint, or None.

    Returns:
        `runs/<name>/version_k`, or None for a checkpoint elsewhere: a folder that this program did
        not mark as a run is not written to.
    """
    folder = Path(checkpoint).resolve().parent if checkpoint else Path()
    if folder.name != "checkpoints" or read_marker(folder.parent, KIND) is None:
        return None
    return folder.parent


def number_together(configured: Any) -> Any:
    """Give the loggers of a new run the same folder, if they have the same place.

    Lightning numbers each when its turn comes: the second would find the folder of the first.

    Args:
        configured: `trainer.logger` as parsed.

    Returns:
        A copy in which a TensorBoardLogger or CSVLogger without a version, and with `save_dir` and
        `name` of the first one, has the version that the first one will choose.
    """
    if not isinstance(configured, list):
        return configured
    local = [spec for spec in configured if issubclass(_class_of(spec), LOCAL)]
    if len(local) < 2 or any(_settings(spec).get("version") is not None for spec in local):
        return configured
    version = _class_of(local[0])(**_settings(local[0]).as_dict()).version
    return [
        _with(spec, version=version) if spec in local and _place(spec) == _place(local[0]) else spec
        for spec in configured
    ]


def place_loggers(configured: Any, run: Path) -> Any:
    """Let the configured loggers continue a run.

    The first TensorBoardLogger or CSVLogger, and those with the same place, get the place of the
    run. One that wrote to another folder keeps its folder and gets the version; so does a user's
    own logger that has `save_dir`, `name` and `version`. Those of W&B and MLflow get the id of the
    run that they began, unless the configuration gives one; those of other services start a new
    run.

    Args:
        configured: `trainer.logger` as parsed: objects to build, true or null for Lightning's
            default, false for none.
        run: The run directory.

    Returns:
        A copy with the changed settings.

    Raises:
        UserError: If `loggers.json` of the run is damaged.
    """
    if configured is False:
        return False
    if configured in (None, True):
        configured = Namespace(class_path="lightning.pytorch.loggers.TensorBoardLogger")  # type: ignore[no-untyped-call]
    specs = configured if isinstance(configured, list) else [configured]
    first = next((spec for spec in specs if issubclass(_class_of(spec), LOCAL)), specs[0])
    ids = known_runs(run)
    placed = [_continued(spec, ids) or _placed(spec, first, run) for spec in specs]
    return placed if isinstance(configured, list) else placed[0]


def keep_metrics(loggers: Iterable[Logger]) -> None:
    """Let CSVLoggers append to an existing `metrics.csv`, which Lightning's would delete.

    Args:
        loggers: The loggers of a run that continues, before their experiments are created.
    """
    for logger in loggers:
        if isinstance(logger, CSVLogger) and os.environ.get("LOCAL_RANK", "0") == "0":
            path = Path(logger.log_dir, "metrics.csv")
            if path.is_file():
                aside = _free_name(path)
                path.rename(aside)
                experiment = logger.experiment
                aside.rename(path)
                lines = path.read_text(encoding="utf-8").splitlines()
                experiment.metrics_keys = next(csv.reader(lines), [])


def _free_name(path: Path) -> Path:
    number = 1
    while (free := path.with_name(f"{path.stem}.{number}{path.suffix}")).exists():
        number += 1
    return free


def _continued(spec: Namespace, ids: dict[type[Logger], Iterator[str]]) -> Namespace | None:
    """Give a logger of a service the id of the run that it continues."""
    for service, argument in CONTINUED_BY.items():
        if issubclass(_class_of(spec), service):
            given = _settings(spec).get(argument) or _settings(spec).get("id")
            known = next(ids[service], None)
            return spec if given or not known else _with(spec, **{argument: known})
    return None


def _placed(spec: Namespace, first: Namespace, run: Path) -> Namespace:
    cls = _class_of(spec)
    service = not issubclass(cls, LOCAL) and cls.__module__.startswith("lightning.")
    if service or not set(PLACE) <= inspect.signature(cls).parameters.keys():
        return spec
    if _place(spec) == _place(first):
        spec = _with(spec, save_dir=str(run.parent.parent), name=run.parent.name)
    return _with(spec, version=run.name)


def _class_of(spec: Namespace) -> type[Logger]:
    return pkgutil.resolve_name(spec.class_path)


def _settings(spec: Namespace) -> Namespace:
    return spec.get("init_args") or Namespace()  # type: ignore[no-untyped-call]


def _place(spec: Namespace) -> tuple[Any, Any]:
    return _settings(spec).get("save_dir"), _settings(spec).get("name")


def _with(spec: Namespace, **settings: Any) -> Namespace:
    """Copy the settings of an object with some of them changed."""
    spec = spec.clone()
    spec["init_args"] = Namespace(**_settings(spec).as_dict() | settings)  # type: ignore[no-untyped-call]
    return spec
