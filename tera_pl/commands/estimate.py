"""Subcommand `estimate`: predict what a run takes, from its configuration alone."""

import json
import sys
from collections.abc import Sequence

from tera_pl.cli import ConfigurationCLI, build
from tera_pl.commands.arguments import Parser, positive
from tera_pl.estimation.run import estimate_run
from tera_pl.estimation.table import GB, as_table


def main(args: Sequence[str]) -> int:
    """Run the command.

    Args:
        args: Its arguments; those that it does not define are passed to `fit`.

    Returns:
        0.
    """
    parser = Parser(
        "estimate",
        epilog="All other options are those of fit: --config and overrides. Of the backbone only "
        "config.json must be on this machine; no weights or data are read.",
    )
    parser.add_argument("--batch", type=int, help="examples per batch (default: as configured)")
    parser.add_argument("--length", type=int, help="tokens per example (default: the most allowed)")
    parser.add_argument(
        "--device_gb",
        type=positive,
        default=80,
        help="memory of the accelerator in 10^9 bytes (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options, rest = parser.parse_known_args(args)
    cli = build(ConfigurationCLI, ["fit", *rest])
    found = estimate_run(
        cli.model,
        cli.datamodule,
        cli.trainer_settings,
        int(options.device_gb * GB),
        batch_size=options.batch,
        length=options.length,
    )
    sys.stdout.write((json.dumps(found, indent=2) if options.json else as_table(found)) + "\n")
    return 0
