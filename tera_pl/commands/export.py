"""Subcommand `export`: write a checkpoint for other programs."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
    sys.stdout.write("\n".join([f"exported to {options['output']}", *_summary(report)]) + "\n")
    return 0


def _summary(report: Mapping[str, Any]) -> list[str]:
    """Summarize `export_report.json`, which has all of it."""
    if "merged_layers" not in report:
        return []
    logits = (
        f"{report['largest_logit_error']:.2g} of logits up to {report['largest_logit']:.3g} "
        f"({report['compared_tokens']} tokens compared); rounding explains "
        f"{report['largest_allowed_logit_error']:.2g}"
    )
    weights = f"{report['largest_weight_error']:.2g} of weights"
    return [
        f"merged         {report['merged_layers']} layers",
        f"largest error  {logits}",
        f"               {weights}, {report['largest_layer_error']:.2g} of layers",
    ]
