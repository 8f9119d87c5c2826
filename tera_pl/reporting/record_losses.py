"""Files with the loss of every record, and what is estimated from those of several runs."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tera_pl.checkpointing.atomic_writes import write_atomically
from tera_pl.metrics import RecordLoss
from tera_pl.reporting.result_files import damaged

COLUMNS = ("id", "nll", "tokens")


def losses_file(stage: str) -> str:
    """Name the file in a run directory: `losses_test.csv`.

    Args:
        stage: `fit`, `validate` or `test`, as the sections of `results.json`.

    Returns:
        The name.
    """
    return f"losses_{stage}.csv"


def write_losses(path: Path, losses: Sequence[RecordLoss]) -> None:
    """Write a file with the loss of every record.

    Args:
        path: The file, in a run directory.
        losses: The losses.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(losses)
    write_atomically(path, text.getvalue())


def read_losses(path: Path) -> list[RecordLoss]:
    """Read a file that `write_losses` wrote.

    Args:
        path: The file.

    Returns:
        The losses, in order of records; empty without a file.

    Raises:
        UserError: If the file is damaged.
    """
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            head, *rows = csv.reader(file)
        if head != list(COLUMNS):
            raise ValueError(f"its columns are {', '.join(head)[:80]}")
        return [RecordLoss(name, float(nll), int(tokens)) for name, nll, tokens in rows]
    except (OSError, ValueError, csv.Error) as error:
        raise damaged(path, str(error)) from None


def average_losses(runs: Sequence[Sequence[RecordLoss]]) -> list[RecordLoss]:
    """Average the loss of every record over runs, for example of several seeds.

    Args:
        runs: The losses of each run.

    Returns:
        One per record; empty if a run has other records or other tokens of them.
    """
    if not runs or any(_keys(run) != _keys(runs[0]) for run in runs):
        return []
    means = np.mean([[row.nll for row in run] for run in runs], axis=0)
    return [
        RecordLoss(row.id, float(nll), row.tokens) for row, nll in zip(runs[0], means, strict=True)
    ]


def differences(losses: Sequence[RecordLoss], others: Sequence[RecordLoss]) -> list[RecordLoss]:
    """Subtract the losses of the same records under another model.

    Args:
        losses: Losses of one model.
        others: Losses of the other.

    Returns:
        One difference per record; empty if the records or their tokens differ.
    """
    if _keys(losses) != _keys(others):
        return []
    pairs = zip(losses, others, strict=True)
    return [RecordLoss(row.id, row.nll - other.nll, row.tokens) for row, other in pairs]


def _keys(losses: Sequence[RecordLoss]) -> list[tuple[str, int]]:
    return [(row.id, row.tokens) for row in losses]
