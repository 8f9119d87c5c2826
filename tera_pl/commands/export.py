"""Subcommand `export`: write a checkpoint for other programs."""

import sys
from collections.abc import Sequence
from pathlib import Path

from tera_pl.checkpointing.atomic_writes import OVERWRITE_HELP
from tera_pl.commands.arguments import Parser, file_size
from tera_pl.export.checkpoint import export_checkpoint


def main(args: Sequence[str]) -> int:
    """Run the command.

    Args:
        args: Its arguments.

    Returns:
        0.
    """
    parser = Parser("export")
    parser.add_argument("--ckpt_path", required=True, type=Path, help="checkpoint of a run")
    parser.add_argument("--output", required=True, type=Path, help="folder to write, new or empty")
    parser.add_argument("--backbone", metavar="PATH", help="the base model, if it has moved")
    parser.add_argument(
        "--trust_remote_code", action="store_true", help="run code that comes with the base model"
    )
    parser.add_argument(
        "--merge", action="store_true", help="merge the adapter into the weights of the base"
    )
    parser.add_argument(
        "--dequantize",
        action="store_true",
        help="with --merge, write a quantized base in floating point",
    )
    parser.add_argument(
        "--max_shard_size",
        type=file_size,
        default="5GB",
        help="size of the largest file of weights (default: %(default)s)",
    )
    parser.add_argument("--overwrite", action="store_true", help=OVERWRITE_HELP)
    options = vars(parser.parse_args(args))
    report = export_checkpoint(**options)
    lines = [f"exported to {options['output']}"]
    lines += [f"{key}: {value}" for key, value in report.items()]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0
