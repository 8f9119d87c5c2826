"""Tables and figures of the paper for any set of runs."""

import re
import shlex
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from tera_pl.checkpointing.atomic_writes import (
    OVERWRITE_HELP,
    atomic_folder,
    check_target,
    open_atomically,
)
from tera_pl.commands.arguments import Parser
from tera_pl.reporting.drawing import save
from tera_pl.reporting.figures import draw_all
from tera_pl.reporting.groups import check_same_protocol, group_runs, protocol_differences
from tera_pl.reporting.layouts import layout_for
from tera_pl.reporting.published import published_for
from tera_pl.reporting.runs import Run, read_runs
from tera_pl.reporting.tables import make_table, to_csv
from tera_pl.reporting.text import Section, write_report

KIND = "report"


def main(args: Sequence[str]) -> int:
    """Lay runs out as the paper does: tables of scores over seeds, figures, and what differs.

    Args:
        args: Arguments of the command.

    Returns:
        0.

    Raises:
        ValueError: If there is no tested run, or runs of one table have different protocols.
    """
    parser = Parser("report", main.__doc__)
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUNS", help="folders that hold runs at any depth"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the report")
    parser.add_argument("--overwrite", action="store_true", help=OVERWRITE_HELP)
    parser.add_argument(
        "--allow_mixed", action="store_true", help="put runs of different protocols into one table"
    )
    options = parser.parse_args(args)
    check_target(options.output, KIND, replace=options.overwrite)
    runs, omissions = read_runs(options.runs)
    sets: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        sets[run.benchmark, run.backbone].append(run)
    if not options.allow_mixed:
        for some in sets.values():
            check_same_protocol(some)
    command = shlex.join(["python", "-m", "tera_pl", "report", *args])
    with atomic_folder(options.output, KIND, replace=options.overwrite) as folder:
        sections = [_make(some, folder) for some in sets.values()]
        write_report(folder / "report.md", command, sections, omissions)
    return 0


def _make(runs: Sequence[Run], output: Path) -> Section:
    """Write the tables and figures of one benchmark and base model."""
    benchmark, backbone = runs[0].benchmark, runs[0].backbone
    layout = layout_for(benchmark, runs)
    groups = group_runs(runs)
    table = make_table(groups, layout, published_for(benchmark, backbone))
    # Two base models may have the same last part: the whole name tells them apart.
    name = re.sub(r"\W+", "-", f"{benchmark} {backbone}").strip("-").lower()
    with open_atomically(output / f"{name}.csv") as file:
        file.write(to_csv(table).encode("utf-8"))
    drawings = draw_all(groups, layout.headline)
    for drawing in drawings:
        if drawing.figure:
            save(drawing.figure, output / f"{name}-{drawing.name}")
    return Section(name, table, tuple(groups), tuple(drawings), protocol_differences(runs))
