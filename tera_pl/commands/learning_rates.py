"""Subcommand `learning_rates`: derive learning rates from that of a reference method."""

import sys
from collections.abc import Sequence
from pathlib import Path

from tera_pl.cli import ConfigurationCLI, build
from tera_pl.commands.arguments import Parser, positive
from tera_pl.errors import UserError
from tera_pl.estimation.learning_rates import HEADER, MethodRate
from tera_pl.tasks import CausalLMTask


def main(args: Sequence[str]) -> int:
    """Run the command.

    Args:
        args: Its arguments; those that it does not define are passed to `fit`.

    Returns:
        0.

    Raises:
        UserError: If a configuration is invalid, or the reference method has no weight update.
    """
    parser = Parser(
        "learning_rates",
        epilog="A method's rate is that at which its weights have moved as far by the end of the "
        "warm-up as the reference's: ||DeltaW||_F / ||W||_F over one block's adapted layers, with "
        "random weights and the configured optimizer and schedule. No weights or data are read. "
        "All other options are those of fit, for every configuration.",
    )
    parser.add_argument("configs", nargs="+", type=Path, help="configurations of methods")
    parser.add_argument("--reference", type=Path, required=True, help="reference configuration")
    parser.add_argument(
        "--rate", type=positive, help="learning rate of the reference (default: as configured)"
    )
    options, rest = parser.parse_known_args(args)
    reference = _load(options.reference, rest)
    rate = options.rate or reference.configured
    target = reference.change(rate)
    if target is None:
        raise UserError(f"--reference: {options.reference} has no weight update: expected LoRA")
    sys.stdout.write(
        f"{reference.name} at {rate:g}: ||DeltaW|| / ||W|| = {target:.3g} after "
        f"{reference.warmup_steps} warm-up steps\n\n{HEADER}"
    )
    # Its frozen tensors, and those of every method, can be large.
    del reference
    for path in options.configs:
        sys.stdout.write(_load(path, rest).row(target, rate) + "\n")
        sys.stdout.flush()
    return 0


def _load(path: Path, rest: Sequence[str]) -> MethodRate:
    task = build(ConfigurationCLI, ["fit", "--config", str(path), *rest]).model
    if not isinstance(task, CausalLMTask):
        raise UserError(f"{path}: expected a configuration of tera_pl.tasks.CausalLMTask")
    return MethodRate(path.stem, task)
