"""What metrics keep between updates: rows, joined over processes."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class RowMetric(Metric):
    """Metric whose states are lists of tensors, each with one row or several.

    Processes may hold different numbers of rows, or none: torchmetrics fills in for an empty list
    a tensor of another shape and type, which the other processes cannot receive.

    Args:
        **empty: The states by name, each as a tensor of no rows that gives type and shape.
    """

    full_state_update = False

    def __init__(self, **empty: Tensor) -> None:
        super().__init__()
        self._empty = empty
        for name in empty:
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def rows(self, name: str) -> Tensor:
        """Give a state as one tensor; between processes it already is one."""
        state = getattr(self, name)
        return state if isinstance(state, Tensor) else torch.cat([self._none(name), *state])

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Join the rows of all processes."""
        for name in self._empty:
            state = getattr(self, name)
            if isinstance(state, list) and not state:
                state.append(self._none(name))
        super().sync(*args, **kwargs)

    def _none(self, name: str) -> Tensor:
        return self._empty[name].to(self.device)
