"""Loggers of a resumed run: the configured ones, in the run directory of the checkpoint."""

import inspect
import os
import pkgutil
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import loggers

from tera_pl.checkpointing.markers import read_marker
from tera_pl.checkpointing.run_directory import KIND

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


def place_loggers(configured: Any, run: Path) -> Any:
    """Let the configured loggers write into a run directory.

    A logger that has `save_dir`, `name` and `version` gets those of the run. One that wrote to
    another folder than the first logger keeps its folder and gets the version. Loggers of online
    services are not changed.

    Args:
        configured: `trainer.logger` as parsed: objects to build, true or null for Lightning's
            default, false for none.
        run: The run directory.

    Returns:
        A copy with the changed settings.
    """
    if configured is False:
        return False
    if configured in (None, True):
        configured = Namespace(class_path="lightning.pytorch.loggers.TensorBoardLogger")  # type: ignore[no-untyped-call]
    specs = configured if isinstance(configured, list) else [configured]
    placed = [_placed(spec, specs[0], run) for spec in specs]
    return placed if isinstance(configured, list) else placed[0]


def keep_metrics(run: Path) -> None:
    """Rename `metrics.csv` of a run: Lightning's CSVLogger deletes an existing one.

    Args:
        run: The run directory.
    """
    path = run / "metrics.csv"
    if os.environ.get("LOCAL_RANK", "0") == "0" and path.is_file():
        number = 1
        while (kept := run / f"metrics.{number}.csv").exists():
            number += 1
        path.rename(kept)


def _placed(spec: Namespace, first: Namespace, run: Path) -> Namespace:
    cls = pkgutil.resolve_name(spec.class_path)
    parameters = inspect.signature(cls).parameters
    own = (loggers.TensorBoardLogger, loggers.CSVLogger)
    service = not issubclass(cls, own) and cls.__module__.startswith("lightning.")
    if service or not set(PLACE) <= parameters.keys():
        return spec
    spec = spec.clone()
    settings = spec.get("init_args") or Namespace()  # type: ignore[no-untyped-call]
    start = first.get("init_args") or settings
    if all(settings.get(name) == start.get(name) for name in ("save_dir", "name")):
        settings.update(Namespace(save_dir=str(run.parent.parent), name=run.parent.name))  # type: ignore[no-untyped-call]
    settings["version"] = run.name
    spec["init_args"] = settings
    return spec
