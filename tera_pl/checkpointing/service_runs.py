"""The runs of a service (Weights & Biases, MLflow) that a run directory belongs to."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from lightning.pytorch.loggers import Logger, MLFlowLogger, WandbLogger

from tera_pl.checkpointing.atomic_writes import write_atomically
from tera_pl.errors import UserError

FILE = "loggers.json"
# By class: the argument by which its logger continues a run of the service.
CONTINUED_BY: dict[type[Logger], str] = {WandbLogger: "version", MLFlowLogger: "run_id"}


def remember_runs(run: Path, loggers: Iterable[Logger]) -> None:
    """Write the ids of the services' runs to `loggers.json`, if there are any.

    Args:
        run: The run directory.
        loggers: The loggers of the run, with their experiments.

    Raises:
        UserError: If an older file is damaged.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for logger in loggers:
        for cls in CONTINUED_BY:
            if isinstance(logger, cls) and logger.version is not None:
                found[cls.__name__].append(str(logger.version))
    if found:
        text = json.dumps(_read(run) | found, indent=2)
        write_atomically(run / FILE, f"{text}\n")


def known_runs(run: Path) -> dict[type[Logger], Iterator[str]]:
    """Give the ids of the services' runs that a run directory belongs to.

    Args:
        run: The run directory.

    Returns:
        Ids by class of logger, in the order of the loggers.

    Raises:
        UserError: If `loggers.json` is damaged.
    """
    ids = _read(run)
    return {cls: iter(ids.get(cls.__name__, [])) for cls in CONTINUED_BY}


def _read(run: Path) -> dict[str, list[str]]:
    path = run / FILE
    if not path.exists():
        return {}
    try:
        ids = json.loads(path.read_text(encoding="utf-8"))
        valid = all(isinstance(i, str) for some in ids.values() for i in some)
    except (ValueError, AttributeError, TypeError):
        valid = False
    if not valid:
        raise UserError(
            f"{path} is damaged: expected the ids of a run by class of logger; without the file, "
            "W&B and MLflow start new runs"
        )
    return ids
