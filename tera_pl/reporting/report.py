"""Report runs: tables and figures of the paper, and one page with all of them."""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from tera_pl.checkpointing.atomic_writes import atomic_folder, check_target, open_atomically
from tera_pl.progress import track
from tera_pl.reporting.drawing import save
from tera_pl.reporting.figures import draw_all
from tera_pl.reporting.groups import check_same_protocol, group_runs, protocol_differences
from tera_pl.reporting.layouts import layout_for
from tera_pl.reporting.loss_tables import loss_rows, losses_to_csv
from tera_pl.reporting.published import published_for
from tera_pl.reporting.runs import Run, read_runs
from tera_pl.reporting.tables import make_table, to_csv
from tera_pl.reporting.text import Section, write_page

KIND = "report"


def report_runs(
    folders: Sequence[Path],
    output: Path,
    command: str,
    *,
    allow_mixed: bool = False,
    overwrite: bool = False,
) -> str:
    """Write `report.md` with a CSV file and figures for every dataset and base model.

    Args:
        folders: Run directories, or folders that contain them at any depth.
        output: Folder to write.
        command: The command line that makes the report.
        allow_mixed: Whether runs of different evaluation protocols may stand in one table.
        overwrite: Whether an earlier report's folder is replaced.

    Returns:
        What was written, in a line.

    Raises:
        UserError: If there is no tested run, or runs of one table have different protocols.
    """
    check_target(output, KIND, replace=overwrite)
    runs, omissions = read_runs(folders)
    tables: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        tables[run.dataset, run.backbone].append(run)
    if not allow_mixed:
        for runs_of_table in tables.values():
            check_same_protocol(runs_of_table)
    with atomic_folder(output, KIND, replace=overwrite) as folder:
        of_tables = track(list(tables.values()), "tables and figures")
        sections = [_write_section(runs_of_table, folder) for runs_of_table in of_tables]
        write_page(folder / "report.md", command, sections, omissions)
        figures = len(list(folder.glob("*.png")))
    return (
        f"wrote {output / 'report.md'}: {len(runs)} runs, {len(sections)} tables, {figures} "
        f"figures; {len(omissions)} runs left out"
    )


def _write_section(runs: Sequence[Run], folder: Path) -> Section:
    """Write the table and figures of one dataset and base model."""
    dataset, backbone = runs[0].dataset, runs[0].backbone
    layout = layout_for(dataset, runs)
    groups = group_runs(runs)
    table = make_table(groups, layout, published_for(dataset, backbone))
    # The complete path: two base models may have the same last component.
    name = re.sub(r"\W+", "-", f"{dataset} {backbone}").strip("-").lower()
    with open_atomically(folder / f"{name}.csv") as file:
        file.write(to_csv(table).encode("utf-8"))
    losses = loss_rows(groups)
    if losses:
        with open_atomically(folder / f"{name}-losses.csv") as file:
            file.write(losses_to_csv(losses).encode("utf-8"))
    drawings = draw_all(groups, layout.headline)
    for drawing in drawings:
        if drawing.figure:
            save(drawing.figure, folder / f"{name}-{drawing.name}.png")
    mixed = protocol_differences(runs)
    return Section(name, table, tuple(losses), tuple(groups), tuple(drawings), mixed)
