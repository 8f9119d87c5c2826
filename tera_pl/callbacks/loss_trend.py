"""Report a run whose training loss did not fall."""

import math
import statistics
from collections import deque
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_warn

SAMPLE = 10  # steps at the start and at the end
SIGMAS = 2.0


class LossTrend(Callback):
    """Warn at the end of `fit` if the training loss did not fall, with what to try.

    The means of the first and the last ten batches are compared; a difference of less than two
    standard errors does not count. Runs of fewer than 20 batches and resumed runs are not judged.
    """

    def __init__(self) -> None:
        self.first: list[float] = []
        self.last: deque[float] = deque(maxlen=SAMPLE)
        self._from_start = False

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Forget an earlier run."""
        self.first, self.last = [], deque(maxlen=SAMPLE)
        self._from_start = trainer.global_step == 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the loss."""
        loss = trainer.callback_metrics.get("train/loss")
        if loss is None:
            return
        if len(self.first) < SAMPLE:
            self.first.append(float(loss))
        else:
            self.last.append(float(loss))

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Warn."""
        if not self._from_start or len(self.last) < SAMPLE:
            return
        change, noise = compare(self.first, list(self.last))
        if change < -noise:
            return
        rate = pl_module.spec.optimizer.get("lr")
        rose = change > noise
        advice = "" if rate is None else f"the learning rate is {rate:g}: "
        factor, more = (0.1, "") if rose else (10, ", more steps")
        tried = "another rate" if rate is None else f"{rate * factor:g}"
        rank_zero_warn(
            f"the training loss {'rose' if rose else 'did not fall'}: "
            f"{statistics.fmean(self.first):.4g} in the first {SAMPLE} batches, "
            f"{statistics.fmean(self.last):.4g} in the last; {advice}try "
            f"model.init_args.optimizer.init_args.lr {tried}{more}, and look at the examples with "
            "`python -m tera_pl data`"
        )


def compare(first: list[float], last: list[float]) -> tuple[float, float]:
    """Compare two samples of a loss.

    Args:
        first: Losses at the start.
        last: Losses at the end.

    Returns:
        The difference of their means, and what of it is noise: two standard errors.
    """
    variances = [statistics.variance(sample) / len(sample) for sample in (first, last)]
    change = statistics.fmean(last) - statistics.fmean(first)
    return change, SIGMAS * math.sqrt(sum(variances))
