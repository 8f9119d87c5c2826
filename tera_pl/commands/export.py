"""Subcommand `export`: write a checkpoint for other programs."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tera_pl.checkpointing.atomic_writes import OVERWRITE_HELP
from tera_pl.commands.arguments import Parser, file_size, positive
from tera_pl.errors import UserError
from tera_pl.export.checkpoint import export_checkpoint
from tera_pl.export.lora import ENERGY, LARGEST_RANK, LoraSettings


def main(args: Sequence[str]) -> int:
    """Run the command.

    Args:
        args: Its arguments.

    Returns:
        0.
    """
    options = vars(_parser().parse_args(args))
    if options["dequantize"] and not options["merge"]:
        raise UserError("--dequantize is an option of --merge: add that, or remove it")
    options["lora"] = _lora_settings(options)
    report = export_checkpoint(**options)
    lines = [f"exported to {options['output']}", *_summary(report)]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _parser() -> Parser:
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
    parser.add_argument(
        "--as",
        dest="kind",
        choices=["lora"],
        help="convert the adapter of any method to a LoRA adapter, by truncated SVD",
    )
    parser.add_argument(
        "--rank",
        type=_rank,
        help=f"with --as lora, its rank, at most {LARGEST_RANK}; auto, the default, is the "
        "smallest that keeps --energy in every layer",
    )
    parser.add_argument(
        "--energy",
        type=_energy,
        help="with --rank auto, the share of the squared Frobenius norm that every weight update "
        f"keeps (default: {ENERGY})",
    )
    parser.add_argument(
        "--config",
        type=Path,
        help="with --as lora, a configuration on whose validation split the change of the loss is "
        "measured; its classes are run",
    )
    return parser


def _lora_settings(options: dict[str, Any]) -> LoraSettings | None:
    """Take the options of `--as lora` out of all options."""
    names = ("kind", "rank", "energy", "config")
    kind, rank, energy, config = (options.pop(name) for name in names)
    if kind is None:
        given = {"--rank": rank, "--energy": energy, "--config": config}
        if unused := [name for name, value in given.items() if value is not None]:
            raise UserError(f"{unused[0]} is an option of --as lora: add that, or remove it")
        return None
    if options["merge"]:
        raise UserError("--merge and --as lora exclude each other: a LoRA adapter is not merged")
    if isinstance(rank, int) and energy is not None:
        raise UserError("--energy is for --rank auto: remove one of the two")
    return LoraSettings(rank if isinstance(rank, int) else None, energy or ENERGY, config)


def _rank(text: str) -> int | str:
    if text == "auto":
        return text
    if not text.isdecimal() or not 1 <= int(text) <= LARGEST_RANK:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected auto, or an integer from 1 to {LARGEST_RANK}, the most that vLLM "
            "serves"
        )
    return int(text)


def _energy(text: str) -> float:
    energy = positive(text)
    if energy > 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a share, at most 1")
    return energy


def _summary(report: Mapping[str, Any]) -> list[str]:
    """Summarize `export_report.json`, which has all of it."""
    if "rank" in report:
        return _lora_summary(report)
    if "merged_layers" not in report:
        return []
    logits = (
        f"{report['largest_logit_error']:.2g} of logits up to {report['largest_logit']:.3g} "
        f"({report['compared_tokens']} tokens compared); rounding explains "
        f"{report['largest_allowed_logit_error']:.2g}"
    )
    weights = f"{report['largest_weight_error']:.2g} of weights"
    dequantized = []
    if "largest_dequantization_error" in report:
        largest = report["largest_dequantization_error"]
        relative = report["relative_dequantization_error"]
        dequantized = [
            f"dequantized    {largest:.2g} of logits from those of the quantized model,",
            f"               {relative:.2g} of their norm",
        ]
    return [
        f"merged         {report['merged_layers']} layers",
        f"largest error  {logits}",
        f"               {weights}, {report['largest_layer_error']:.2g} of layers",
        *dequantized,
    ]


def _lora_summary(report: Mapping[str, Any]) -> list[str]:
    layers = report["layers"]
    width = max(map(len, layers))
    energy = report["energy_of_auto"]
    before, after = report["validation_loss_before"], report["validation_loss_after"]
    head = f"{'layer':<{width}}  energy kept  rank for {energy:g}"
    rows = [
        f"{name:<{width}}  {layer['energy']:11.6f}  {layer['rank_of_auto']:{len('rank for')}d}"
        for name, layer in layers.items()
    ]
    if before is None:
        loss = "not measured: name a configuration by --config"
    else:
        loss = f"{before:.6g} before, {after:.6g} after ({after - before:+.3g})"
    return [f"rank             {report['rank']}", f"validation loss  {loss}", "", head, *rows]
