"""Metric states that are rows, concatenated over processes."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class RowMetric(Metric):
    """Metric whose states are lists of tensors with one or more rows each.

    Processes may have different numbers of rows, or no rows. For an empty list torchmetrics sends a
    tensor of another shape and type, which the other processes cannot receive.

    Args:
        **empty: The states by name, each as a tensor without rows that defines type and shape.
    """

    full_state_update = False

    def __init__(self, **empty: Tensor) -> None:
        super().__init__()
        self._empty = empty
        for name in empty:
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def rows(self, name: str) -> Tensor:
        """Return a state as one tensor, which it already is after `sync`."""
        state = getattr(self, name)
        return state if isinstance(state, Tensor) else torch.cat([self._no_rows(name), *state])

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Concatenate the rows of all processes."""
        for name in self._empty:
            state = getattr(self, name)
            if isinstance(state, list) and not state:
                state.append(self._no_rows(name))
        super().sync(*args, **kwargs)

    def _no_rows(self, name: str) -> Tensor:
        return self._empty[name].to(self.device)
