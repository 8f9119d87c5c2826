"""Subcommands `benchmark` and `benchmark pipeline`."""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from tera_pl.benchmarking import pipeline
from tera_pl.benchmarking.methods import MEASUREMENTS, Settings, measure
from tera_pl.benchmarking.models import METHODS, SHAPES
from tera_pl.benchmarking.results import KIND, as_table, write_results
from tera_pl.checkpointing.atomic_writes import OVERWRITE_HELP, check_target
from tera_pl.commands.arguments import Parser
from tera_pl.errors import UserError
from tera_pl.models.backbone import DTYPES


def main(args: Sequence[str]) -> int:
    """Time and memory of every method on one model, relative to the frozen base model.

    Args:
        args: Arguments of the command; after `pipeline` those of `compare_pipelines`.

    Returns:
        0.

    Raises:
        UserError: If an argument is invalid.
    """
    if args and args[0] == "pipeline":
        return compare_pipelines(args[1:])
    parser = Parser(
        "benchmark",
        epilog="python -m tera_pl benchmark pipeline compares complete training runs with a "
        "Hugging Face Trainer baseline: see its --help.",
    )
    parser.add_argument("--shape", choices=SHAPES, default="cpu_small", help="shape of the model")
    parser.add_argument(
        "--tokens", type=int, nargs="+", default=[1024, 4096], help="tokens per step"
    )
    parser.add_argument("--length", type=int, default=256, help="tokens per sequence")
    parser.add_argument(
        "--methods", nargs="+", default=list(METHODS), help=f"methods to time: {', '.join(METHODS)}"
    )
    parser.add_argument("--measure", choices=MEASUREMENTS, nargs="+", default=MEASUREMENTS)
    parser.add_argument("--rounds", type=int, default=9, help="number of interleaved timings")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=DTYPES, help="dtype of the weights")
    parser.add_argument("--output", type=Path, required=True, help="folder of the results")
    parser.add_argument("--overwrite", action="store_true", help=OVERWRITE_HELP)
    options = parser.parse_args(args)
    check_target(options.output, KIND, replace=options.overwrite)
    _check_sizes(options.methods, options.length, options.tokens, options.rounds)
    device = _open_device(options.device)
    measured = measure(
        Settings(
            shape=options.shape,
            dtype=options.dtype or ("bfloat16" if device.type == "cuda" else "float32"),
            device=device,
            methods=options.methods,
            measurements=options.measure,
            tokens=options.tokens,
            length=options.length,
            rounds=options.rounds,
        )
    )
    write_results(measured, options.output, overwrite=options.overwrite)
    sys.stdout.write(as_table(measured))
    return 0


def compare_pipelines(args: Sequence[str]) -> int:
    """Compare complete training runs with a Hugging Face Trainer baseline.

    Args:
        args: Arguments of the subcommand; unknown ones override values in all configurations.

    Returns:
        0.

    Raises:
        UserError: If an argument is invalid.
    """
    parser = Parser(
        "benchmark pipeline",
        "compare complete training runs with a Hugging Face Trainer baseline",
        epilog="Other arguments override values in all configurations, as for fit.",
    )
    parser.add_argument(
        "--config", nargs="+", type=Path, required=True, help="configurations of fit"
    )
    parser.add_argument(
        "--hf_trainer",
        type=Path,
        required=True,
        metavar="CONFIG",
        help="configuration of the Hugging Face Trainer baseline",
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often each is trained")
    parser.add_argument("--output", type=Path, required=True, help="folder of the results")
    parser.add_argument("--overwrite", action="store_true", help=OVERWRITE_HELP)
    options, overrides = parser.parse_known_args(args)
    if options.rounds < 1:
        raise UserError(f"--rounds is {options.rounds}: expected at least 1")
    table = pipeline.compare(
        options.config,
        options.hf_trainer,
        overrides,
        options.rounds,
        options.output,
        overwrite=options.overwrite,
    )
    sys.stdout.write(table)
    return 0


def _check_sizes(methods: Sequence[str], length: int, tokens: Sequence[int], rounds: int) -> None:
    if unknown := set(methods) - METHODS.keys():
        raise UserError(
            f"--methods: {', '.join(sorted(unknown))} unknown: expected {', '.join(METHODS)}"
        )
    if length < 2:
        raise UserError(f"--length is {length}: expected at least 2 tokens")
    if any(count < length or count % length for count in tokens):
        raise UserError(f"--tokens: {tokens}: expected multiples of {length}")
    if rounds < 2:  # quartiles of one ratio are not defined
        raise UserError(f"--rounds is {rounds}: expected at least 2")


def _open_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise NotImplementedError("nothing is computed there")
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).split("\n")[0][:200]
        raise UserError(f"--device: {name!r} cannot be used ({reason})") from error
    return device
