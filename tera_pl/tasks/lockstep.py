"""Keep processes with sharded layers at the same number of batches."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from tera_pl.distributed.fsdp2 import any_rank


@contextmanager
def lockstep(last: bool, device: torch.device, idle: Callable[[], None]) -> Iterator[None]:
    """Run one batch of an evaluation while other processes may have one more.

    All processes gather the weights of sharded layers together. Each process announces a batch
    before it starts; after its own last batch it computes on dummy inputs while another process
    has a batch left. This ends within the step, because Lightning reduces what was logged after it.

    Args:
        last: Whether the batch is the last one of this process.
        device: Where the backend of the processes communicates.
        idle: Runs the same layers as a batch, on dummy inputs.

    Yields:
        Nothing; the batch runs in the body.
    """
    any_rank(True, device)
    yield
    while last and any_rank(False, device):
        idle()
