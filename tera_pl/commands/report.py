"""Subcommand `report`."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from tera_pl.checkpointing.atomic_writes import OVERWRITE_HELP
from tera_pl.commands.arguments import Parser
from tera_pl.reporting.report import report_runs


def main(args: Sequence[str]) -> int:
    """Report runs with the paper's tables and figures: scores over seeds, ranks, differences.

    Args:
        args: Arguments of the command.

    Returns:
        0.
    """
    parser = Parser("report")
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUNS", help="folders that contain runs at any depth"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the report")
    parser.add_argument("--overwrite", action="store_true", help=OVERWRITE_HELP)
    parser.add_argument(
        "--allow_mixed", action="store_true", help="put runs of different protocols into one table"
    )
    options = parser.parse_args(args)
    written = report_runs(
        options.runs,
        options.output,
        shlex.join(["python", "-m", "tera_pl", "report", *args]),
        allow_mixed=options.allow_mixed,
        overwrite=options.overwrite,
    )
    sys.stdout.write(f"{written}\n")
    return 0
