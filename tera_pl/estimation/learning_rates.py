"""Learning rates of methods by the rule of `docs/learning_rates.md`."""

import torch
from torch import nn

from tera_pl.analysis.delta_weights import adapted_layers
from tera_pl.analysis.learning_rates import WeightChange, on_grid, rate_for, warmup_distance
from tera_pl.models.backbone import add_adapter, load_config, load_meta_model
from tera_pl.tasks import CausalLMTask

HEADER = (
    "| | rate | times the reference's | on the grid | configured | change as configured |\n"
    "|---|---|---|---|---|---|\n"
)
MISSING = "—"


class MethodRate:
    """How far the optimizer of a configuration moves the weights of its adapted layers.

    Args:
        name: Name of the method in the table.
        task: The task of its configuration.
    """

    def __init__(self, name: str, task: CausalLMTask) -> None:
        self.name = name
        self.warmup_steps = task.schedule.warmup()
        self.configured = float(task.optimizer([nn.Parameter(torch.zeros(1))]).defaults["lr"])
        self._distance = warmup_distance(self.warmup_steps)
        self._weights: WeightChange | None = None
        shapes = _shapes(task)
        if task.adapter is not None and shapes:
            std = load_config(task.backbone).get_text_config().initializer_range
            self._weights = WeightChange(task.adapter, shapes, task.optimizer, std)

    def change(self, rate: float) -> float | None:
        """Measure the weight change at the end of the warm-up.

        Args:
            rate: Peak learning rate.

        Returns:
            `||DeltaW||_F / ||W||_F` over the adapted layers, or None if the method has no weight
            update.
        """
        return None if self._weights is None else self._weights.at(rate, self._distance)

    def row(self, target: float, reference: float) -> str:
        """Give the method's row of the table.

        Args:
            target: The weight change to reach.
            reference: Learning rate of the reference method.

        Returns:
            A row in Markdown, without a line break.
        """
        weights = self._weights
        if weights is None:
            cells = [MISSING, MISSING, MISSING, f"{self.configured:g}", MISSING]
        else:
            rate = rate_for(lambda lr: weights.at(lr, self._distance), target, reference)
            cells = [
                f"{rate:.2g}",
                f"{rate / reference:.3g}",
                f"{on_grid(rate):g}",
                f"{self.configured:g}",
                f"{weights.at(self.configured, self._distance):.3g}",
            ]
        return f"| {' | '.join([self.name, *cells])} |"


def _shapes(task: CausalLMTask) -> dict[str, tuple[int, int]]:
    """Read the shapes of one block's adapted layers, by the last part of their names."""
    if task.adapter is None:
        return {}
    found: dict[str, tuple[int, int]] = {}
    model = add_adapter(load_meta_model(task.backbone), task.adapter)
    for name, layer in adapted_layers(model).items():
        found.setdefault(name.rpartition(".")[2], (layer.out_features, layer.in_features))
    return found
