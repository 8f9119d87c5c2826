"""How far a learning rate moves the weights during the warm-up, measured without data.

Methods are compared at rates at which this is the same for all: the rule of
`docs/learning_rates.md`.
"""

import copy
import math
from collections.abc import Callable, Mapping

import torch
from peft import PeftConfig, get_peft_model
from torch import Tensor, nn

Optimizers = Callable[[list[nn.Parameter]], torch.optim.Optimizer]

TOKENS = 64
STEPS = 10
TOLERANCE = 0.02


def warmup_distance(warmup_steps: int) -> float:
    """Sum the learning rates of a linear warm-up over its steps, in units of the peak rate."""
    return sum(step / warmup_steps for step in range(warmup_steps))


class Projections(nn.Module):
    """The linear layers of one transformer block by name, with random weights, on their own.

    Args:
        shapes: `(out_features, in_features)` by name.
        std: Standard deviation of the weights.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, int]], std: float) -> None:
        super().__init__()
        for name, (out_features, in_features) in shapes.items():
            layer = nn.Linear(in_features, out_features, bias=False)
            nn.init.normal_(layer.weight, std=std)
            self.add_module(name, layer)

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Apply every layer to its own inputs `(tokens, in_features)`."""
        return {name: self.get_submodule(name)(x) for name, x in inputs.items()}


class WeightChange:
    """Measures the relative change of weights that an optimizer causes through an adapter.

    The optimizer takes `STEPS` equal steps, in total as long as those of the warm-up, along the
    gradient of a loss that is linear in the layers' outputs, with fixed random coefficients: the
    parameters of an adapter move as far as the optimizer can move them. The result is the root mean
    square of `DeltaW x` divided by that of `W x`, for other random `x`, which is
    `||DeltaW||_F / ||W||_F` up to a percent for any method. Of a weight update that does not start
    at zero only the change counts.

    Args:
        adapter: Configuration of the adapter; copied, not changed.
        shapes: `(out_features, in_features)` of the layers it adapts, by name.
        optimizer: Creates the optimizer.
        std: Standard deviation of the layers' weights.
        seed: Seed of weights, adapter, inputs and coefficients.
    """

    def __init__(
        self,
        adapter: PeftConfig,
        shapes: Mapping[str, tuple[int, int]],
        optimizer: Optimizers,
        std: float = 0.02,
        seed: int = 0,
    ) -> None:
        adapter = copy.deepcopy(adapter)
        adapter.task_type = None
        torch.manual_seed(seed)
        self.model: nn.Module = get_peft_model(Projections(shapes, std), adapter)
        # Dropout would add noise to the measurement.
        self.model.eval()
        self.optimizer = optimizer
        self.trainable = [p for p in self.model.parameters() if p.requires_grad]
        self.start = [p.detach().clone() for p in self.trainable]
        draw = torch.randn
        self.inputs = {name: draw(TOKENS, size) for name, (_, size) in shapes.items()}
        self.coefficients = {name: draw(TOKENS, size) for name, (size, _) in shapes.items()}
        self.probes = {name: draw(TOKENS, size) for name, (_, size) in shapes.items()}
        with torch.no_grad():
            self.before = self.model(self.probes)
        with torch.no_grad(), self.model.disable_adapter():
            self.size = _size(self.model(self.probes))

    def at(self, lr: float, distance: float) -> float:
        """Measure the change.

        Args:
            lr: Peak learning rate.
            distance: Sum of the warm-up's rates over its steps, in units of the peak rate.

        Returns:
            `||DeltaW||_F / ||W||_F` over all layers together.
        """
        with torch.no_grad():
            for parameter, value in zip(self.trainable, self.start, strict=True):
                parameter.copy_(value)
        optimizer = self.optimizer(self.trainable)
        for group in optimizer.param_groups:
            group["lr"] = lr * distance / STEPS
        for _ in range(STEPS):
            outputs = self.model(self.inputs)
            loss = sum((outputs[name] * c).sum() for name, c in self.coefficients.items())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            after = self.model(self.probes)
        return _size({name: after[name] - self.before[name] for name in after}) / self.size


def rate_for(change: Callable[[float], float], target: float, guess: float) -> float:
    """Find the learning rate that causes a change.

    Args:
        change: Returns the change at a rate; grows about as a power of the rate.
        target: The desired change.
        guess: The rate to start from.

    Returns:
        The rate at which the change is within `TOLERANCE` of the target.

    Raises:
        ValueError: If none is found because the change does not depend on the rate as expected.
    """
    rate, exponent = guess, 1.0
    previous: tuple[float, float] | None = None
    for _ in range(20):
        found = change(rate)
        if not (math.isfinite(found) and found > 0):
            rate /= 10
            continue
        if abs(found / target - 1) <= TOLERANCE:
            return rate
        if previous is not None and previous[0] != rate:
            exponent = math.log(found / previous[1]) / math.log(rate / previous[0])
            exponent = min(4.0, max(0.5, exponent))
        previous = rate, found
        rate *= (target / found) ** (1 / exponent)
    raise ValueError(f"no learning rate gives a change of {target}: {rate} gives {found}")


def on_grid(rate: float) -> float:
    """Round a rate to the nearest of 1, 3 and 10 times a power of ten, by its logarithm."""
    power = 10.0 ** math.floor(math.log10(rate))
    nearest = min((1, 3, 10), key=lambda mark: abs(math.log(rate / (mark * power))))
    return float(f"{nearest * power:g}")


def _size(outputs: Mapping[str, Tensor]) -> float:
    return math.sqrt(sum(float(y.double().square().sum()) for y in outputs.values()))
