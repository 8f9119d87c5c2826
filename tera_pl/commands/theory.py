"""Subcommand `theory`."""

import sys
from collections.abc import Sequence
from pathlib import Path

from tera_pl.checkpointing.atomic_writes import (
    OVERWRITE_HELP,
    atomic_folder,
    check_target,
    open_atomically,
)
from tera_pl.commands.arguments import Parser
from tera_pl.theory.approximation import approximate_all
from tera_pl.theory.figures import draw_counts, draw_errors
from tera_pl.theory.tables import count_table, error_table

KIND = "theory"


def main(args: Sequence[str]) -> int:
    """Draw the figures of docs/theory.md and print its tables.

    Args:
        args: Arguments of the command.

    Returns:
        0.
    """
    parser = Parser("theory")
    parser.add_argument("--output", type=Path, required=True, help="folder of the figures")
    parser.add_argument("--overwrite", action="store_true", help=OVERWRITE_HELP)
    options = parser.parse_args(args)
    check_target(options.output, KIND, replace=options.overwrite)
    rows = approximate_all()
    with atomic_folder(options.output, KIND, replace=options.overwrite) as folder:
        for name, figure in (("theorem2", draw_counts()), ("theorem3", draw_errors(rows))):
            with open_atomically(folder / f"{name}.png") as file:
                figure.savefig(file, format="png", dpi=150, metadata={"Software": None})
    sys.stdout.write(count_table() + "\n" + error_table(rows))
    return 0
