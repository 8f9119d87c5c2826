"""Derive learning rates from one method's: those that move the weights as far in the warm-up."""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from tera_pl.analysis.delta_weights import adapted_layers
from tera_pl.analysis.learning_rates import WeightChange, on_grid, rate_for, warmup_distance
from tera_pl.cli import ConfigurationCLI, build
from tera_pl.commands.arguments import Parser, positive
from tera_pl.errors import UserError
from tera_pl.models.backbone import add_adapter, load_config, load_meta_model
from tera_pl.tasks import CausalLMTask


def main(args: Sequence[str]) -> int:
    """Derive the learning rates of methods from that of a reference, on random weights.

    A method's rate is that at which its weights have moved as far as the reference's by the end of
    the warm-up, `||DeltaW||_F / ||W||_F` of one block's adapted layers, with the optimizer and
    schedule of the configurations. No weights or data are read.

    Args:
        args: Arguments of the command; what is not its own is `fit`'s, for every configuration.

    Returns:
        0.

    Raises:
        UserError: If a configuration is invalid, or the reference has no weight update.
    """
    parser = Parser(
        "learning_rates",
        main.__doc__,
        epilog="All other options are those of fit, for all configurations.",
    )
    parser.add_argument("configs", nargs="+", type=Path, help="configurations of methods")
    parser.add_argument("--reference", type=Path, required=True, help="configuration to start from")
    parser.add_argument("--rate", type=positive, help="the reference's rate, if not its configured")
    options, rest = parser.parse_known_args(args)
    reference = _Method(options.reference, rest)
    if reference.change is None:
        raise UserError(f"--reference: {options.reference} has no weight update: expected LoRA")
    rate = options.rate or reference.configured
    target = reference.change.at(rate, reference.distance)
    # Without its frozen tensors, which are large.
    reference.change = None
    sys.stdout.write(
        f"{options.reference.stem} at {rate:g}: ||DeltaW|| / ||W|| = {target:.3g} after "
        f"{reference.warmup_steps} warm-up steps\n\n"
        "| | rate | times the reference's | on the grid | configured | change as configured |\n"
        "|---|---|---|---|---|---|\n"
    )
    for path in options.configs:
        sys.stdout.write(_row(_Method(path, rest), target, rate) + "\n")
        sys.stdout.flush()
    return 0


class _Method:
    """A configuration, and how far its optimizer moves its layers.

    Args:
        path: The configuration.
        rest: Arguments of `fit`.
    """

    def __init__(self, path: Path, rest: Sequence[str]) -> None:
        self.name = path.stem
        task = build(ConfigurationCLI, ["fit", "--config", str(path), *rest]).model
        if not isinstance(task, CausalLMTask):
            raise UserError(f"{path}: expected a configuration of tera_pl.tasks.CausalLMTask")
        self.warmup_steps = task.schedule.warmup_steps
        self.distance = warmup_distance(self.warmup_steps)
        shapes = _shapes(task)
        self.change = None
        if task.adapter is not None and shapes:
            std = load_config(task.backbone).get_text_config().initializer_range
            self.change = WeightChange(task.adapter, shapes, task.optimizer, std)
        self.configured = _configured_rate(task)


def _shapes(task: CausalLMTask) -> dict[str, tuple[int, int]]:
    """Shapes of the adapted layers of the first block, by the last part of their names."""
    if task.adapter is None:
        return {}
    found: dict[str, tuple[int, int]] = {}
    model = add_adapter(load_meta_model(task.backbone), task.adapter)
    for name, layer in adapted_layers(model).items():
        found.setdefault(name.rpartition(".")[2], (layer.out_features, layer.in_features))
    return found


def _configured_rate(task: CausalLMTask) -> float:
    return float(task.optimizer([nn.Parameter(torch.zeros(1))]).defaults["lr"])


def _row(method: _Method, target: float, reference: float) -> str:
    change = method.change
    if change is None:
        cells = ["—", "—", "—", f"{method.configured:g}", "—"]
    else:
        rate = rate_for(lambda lr: change.at(lr, method.distance), target, reference)
        cells = [
            f"{rate:.2g}",
            f"{rate / reference:.3g}",
            f"{on_grid(rate):g}",
            f"{method.configured:g}",
            f"{change.at(method.configured, method.distance):.3g}",
        ]
    return f"| {' | '.join([method.name, *cells])} |"
