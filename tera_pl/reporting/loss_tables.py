"""The table of losses and perplexities of a report."""

import csv
import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tera_pl.metrics import RecordLoss
from tera_pl.metrics.record_loss import Estimate, loss_per_token, perplexity
from tera_pl.reporting.groups import Group
from tera_pl.reporting.markup import markdown
from tera_pl.reporting.record_losses import average_losses, differences, losses_file, read_losses
from tera_pl.reporting.tables import MISSING

# Stages of `results.json`, as the table names them.
STAGES = {"fit": "validation", "test": "test"}


@dataclass(frozen=True)
class LossRow:
    """The loss of one method on the records of one stage.

    Args:
        group: Its runs.
        stage: `fit` or `test`.
        losses: The loss of every record, averaged over the runs; empty if a run has not written
            them, or has other records.
        loss: Mean loss of the runs in nats per supervised token, with its standard error over
            records.
        sd: Sample standard deviation of the losses of the runs, or None for one run.
        difference: The loss minus the lowest of the table, with its standard error over the same
            records; None without losses of records.
    """

    group: Group
    stage: str
    losses: tuple[RecordLoss, ...]
    loss: Estimate
    sd: float | None
    difference: Estimate | None = None


def loss_rows(groups: Sequence[Group]) -> list[LossRow]:
    """Estimate the losses of groups of runs, and compare them on the same records.

    Args:
        groups: Groups of runs on one dataset and base model.

    Returns:
        For validation and test, in this order, a row per group whose runs all have a loss.

    Raises:
        UserError: If a file of losses is damaged.
    """
    found: list[LossRow] = []
    for stage in STAGES:
        rows = [row for group in groups if (row := _row(group, stage)) is not None]
        best = min(rows, key=lambda row: row.loss.value, default=None)
        for row in rows:
            pairs = differences(row.losses, best.losses) if best else []
            found.append(replace(row, difference=_estimate(pairs) if pairs else None))
    return found


def losses_to_markdown(rows: Sequence[LossRow]) -> str:
    """Format losses as a Markdown table.

    Args:
        rows: The rows.

    Returns:
        The table.
    """
    head = "| method | records | seeds | loss | over seeds | perplexity | loss minus lowest |"
    lines = [head, "|" + "---|" * 7]
    for row in rows:
        cells = [
            markdown(row.group.label),
            f"{STAGES[row.stage]}, {len(row.losses)}" if row.losses else STAGES[row.stage],
            str(len(row.group.runs)),
            _format(row.loss, 4),
            MISSING if row.sd is None else f"± {row.sd:.4f}",
            _format(perplexity(row.loss), 3),
            MISSING if row.difference is None else _format(row.difference, 4),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def losses_to_csv(rows: Sequence[LossRow]) -> str:
    """Format losses as CSV with unrounded values; a missing one is an empty field.

    Args:
        rows: The rows.

    Returns:
        A line per row.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = ["loss", "perplexity", "difference"]
    head = ["method", "split", "records", "supervised_tokens", "seeds", "loss_sd"]
    writer.writerow([*head, *(column for name in names for column in (name, f"{name}_se"))])
    for row in rows:
        tokens = sum(each.tokens for each in row.losses)
        counts = (len(row.losses), tokens) if row.losses else (None, None)
        of_group = (row.group.label, STAGES[row.stage], *counts, len(row.group.runs), row.sd)
        none = Estimate(float("nan"), None)
        estimates = [row.loss, perplexity(row.loss), row.difference or none]
        values = [value if value == value else None for pair in estimates for value in pair]
        writer.writerow([*of_group, *values])
    return text.getvalue()


def _row(group: Group, stage: str) -> LossRow | None:
    scores = [run.scores if stage == "test" else run.validation_scores for run in group.runs]
    losses = [score["loss"] for score in scores if "loss" in score]
    if len(losses) < len(scores):
        return None
    records = average_losses([read_losses(run.path / losses_file(stage)) for run in group.runs])
    sd = statistics.stdev(losses) if len(losses) > 1 else None
    alone = scores[0].get("loss_se") if len(scores) == 1 else None
    loss = _estimate(records) if records else Estimate(statistics.mean(losses), alone)
    return LossRow(group, stage, tuple(records), loss, sd)


def _estimate(losses: Sequence[RecordLoss]) -> Estimate:
    return loss_per_token([row.nll for row in losses], [row.tokens for row in losses])


def _format(estimate: Estimate, digits: int) -> str:
    text = f"{estimate.value:.{digits}f}"
    return text if estimate.se is None else f"{text} ± {estimate.se:.{digits}f}"
