"""Tables of scores with the columns of the paper."""

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tera_pl.reporting.groups import NO_ADAPTERS, Group
from tera_pl.reporting.layouts import Column, Layout
from tera_pl.reporting.markup import markdown
from tera_pl.reporting.published import Published

MISSING = "—"


@dataclass(frozen=True)
class Cell:
    """A score over seeds, in percent.

    Args:
        mean: Its mean.
        sd: Its sample standard deviation, or None for one seed.
    """

    mean: float
    sd: float | None


@dataclass(frozen=True)
class Row:
    """One method.

    Args:
        label: Its name, with the settings in which it differs from other rows of the method.
        group: Its runs, or None for a method with published scores only.
        cells: Scores by column. A score that any run lacks is missing: the mean over the other
            runs is not comparable.
        published: Its published scores, or None.
    """

    label: str
    group: Group | None
    cells: Mapping[str, Cell] = field(default_factory=dict)
    published: Published | None = None


@dataclass(frozen=True)
class Table:
    """Scores of several methods on one dataset and base model.

    Args:
        layout: Its columns.
        rows: Its rows.
        notes: Why cells are missing.
    """

    layout: Layout
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    def rank(self, row: Row, column: Column) -> int | None:
        """Return 1 for the best score of a column among adapters, 2 for the second best, or None.

        As in the paper, prompt methods, full fine-tuning and published scores are not ranked.
        Scores that round to the same value share a rank.
        """
        rivals = [r for r in self.rows if r.group and r.group.method not in NO_ADAPTERS]
        means = {
            round(r.cells[column.name].mean, self.layout.decimals)
            for r in rivals
            if column.name in r.cells
        }
        if row not in rivals or column.name not in row.cells or len(means) < 2:
            return None
        index = sorted(means, reverse=not column.lower_is_better).index(
            round(row.cells[column.name].mean, self.layout.decimals)
        )
        return index + 1 if index < 2 else None


def make_table(groups: Sequence[Group], layout: Layout, published: Sequence[Published]) -> Table:
    """Average groups of runs and add published scores.

    Args:
        groups: Runs by method.
        layout: The columns.
        published: Scores on the same dataset and base model.

    Returns:
        A row per group, and one for every published method without runs.
    """
    rows, notes = [], []
    for group in groups:
        cells = {}
        for column in layout.columns:
            values = [column.value(run) for run in group.runs]
            known = [value for value in values if value is not None]
            if len(known) == len(values):
                sd = statistics.stdev(known) if len(known) > 1 else None
                cells[column.name] = Cell(statistics.mean(known), sd)
            else:
                notes.append(_why_missing(group, column))
        match = next((entry for entry in published if entry.describes(group)), None)
        rows.append(Row(group.label, group, cells, match))
    shown = [row.published for row in rows]
    rows += [Row(entry.label, None, published=entry) for entry in published if entry not in shown]
    return Table(layout, tuple(rows), tuple(notes))


def to_markdown(table: Table) -> str:
    """Format a table as Markdown: the best score in bold, the second best underlined.

    Args:
        table: The table.

    Returns:
        The table, followed by a list of notes and of the sources of published scores.
    """
    columns, sources = _with_published(table), _sources(table)
    head = ["method", "trainable parameters", "% of all", "seeds"]
    head += [markdown(title) for _, title, _ in columns]
    lines = [_line(head), "|" + "---|" * len(head)]
    for row in table.rows:
        cells = [markdown(row.label), *_counts(row)]
        for column, _, is_published in columns:
            cells.append(
                _format_published(row, column, sources, table.layout.decimals)
                if is_published
                else _format(table, row, column)
            )
        lines.append(_line(cells))
    notes = [f"- {markdown(note)}" for note in table.notes]
    notes += [f"- [{number}] {markdown(source)}" for source, number in sources.items()]
    return "\n".join([*lines, *([""] if notes else []), *notes]) + "\n"


def to_csv(table: Table) -> str:
    """Format a table as CSV with unrounded values; a missing one is an empty field.

    Args:
        table: The table.

    Returns:
        A line per row, with three columns per score: mean, `_sd` and `_published`.
    """
    text = io.StringIO()
    names = ["method", "trainable_params", "trainable_percent", "seeds"]
    for column in table.layout.columns:
        names += [column.name, f"{column.name}_sd", f"{column.name}_published"]
    writer = csv.DictWriter(text, [*names, "source"], lineterminator="\n")
    writer.writeheader()
    for row in table.rows:
        values: dict[str, object] = {"method": row.label}
        if row.group:
            values["trainable_params"] = row.group.trainable_params
            values["trainable_percent"] = row.group.trainable_percent
            values["seeds"] = len(row.group.runs)
        for name, cell in row.cells.items():
            values |= {name: cell.mean, f"{name}_sd": cell.sd}
        if row.published:
            shown = {f"{k}_published": v for k, v in row.published.scores.items()}
            values |= {k: v for k, v in shown.items() if k in names}
            values["source"] = _source(row.published)
        writer.writerow(values)
    return text.getvalue()


def _why_missing(group: Group, column: Column) -> str:
    run = next(run for run in group.runs if column.value(run) is None)
    missing = [name for name in column.scores if name not in run.scores]
    default = "not among the scores of the test"
    reasons = {run.missing_scores.get(name, default) for name in missing}
    return (
        f"{group.label}, {column.title}: {run.path} has no {', '.join(missing)} "
        f"({'; '.join(sorted(reasons))})"
    )


def _with_published(table: Table) -> list[tuple[Column, str, bool]]:
    """Return columns with titles, each followed by its published scores if there are any."""
    shown: list[tuple[Column, str, bool]] = []
    for column in table.layout.columns:
        shown.append((column, column.title, False))
        if any(row.published and column.name in row.published.scores for row in table.rows):
            shown.append((column, f"{column.title}, published", True))
    return shown


def _sources(table: Table) -> dict[str, int]:
    used = dict.fromkeys(_source(row.published) for row in table.rows if row.published)
    return {source: number for number, source in enumerate(used, start=1)}


def _source(published: Published) -> str:
    return published.source + (f"; {published.derived}" if published.derived else "")


def _counts(row: Row) -> list[str]:
    if row.group is None:
        return [MISSING, MISSING, "0"]
    count, percent = row.group.trainable_params, row.group.trainable_percent
    return [
        MISSING if count is None else f"{count:,}",
        MISSING if percent is None else f"{percent:.4g}",
        str(len(row.group.runs)),
    ]


def _format(table: Table, row: Row, column: Column) -> str:
    cell = row.cells.get(column.name)
    if cell is None:
        return MISSING
    digits = table.layout.decimals
    text = f"{cell.mean:.{digits}f}"
    text = {1: f"**{text}**", 2: f"<u>{text}</u>"}.get(table.rank(row, column) or 0, text)
    return text if cell.sd is None else f"{text} ± {cell.sd:.{digits}f}"


def _format_published(row: Row, column: Column, sources: Mapping[str, int], digits: int) -> str:
    score = row.published and row.published.scores.get(column.name)
    if row.published is None or score is None:
        return MISSING
    return f"{score:.{digits}f} [{sources[_source(row.published)]}]"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
