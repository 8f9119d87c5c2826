"""The order of examples, and a loader that resumes where it stopped."""

import math
import random
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Dataset, DistributedSampler, RandomSampler

from datamodules.errors import UserError


class EpochSampler(RandomSampler):
    """Shuffles by seed and epoch alone, so that an order can be repeated.

    Lightning calls `set_epoch`, and puts its own seeded sampler in its place where several
    processes share the data.

    Args:
        data_source: What is sampled from.
        seed: Seed of all orders.
    """

    def __init__(self, data_source: Any, seed: int) -> None:
        super().__init__(data_source)
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        # Two numbers into one seed: no two epochs of a run share an order.
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) % 2**63)
        return iter(torch.randperm(self.num_samples, generator=generator).tolist())


class LengthSampler(DistributedSampler):
    """Goes through the data once, in batches of like lengths.

    The longest batch comes first, so that memory runs out at once or never; the others are in
    random order, always the same, so that the first few are a fair sample. With several processes
    each takes every n-th example by length; none is repeated, so their counts may differ by
    one. Lightning leaves a distributed sampler as it is.

    Args:
        lengths: Length of each example in tokens.
        batch_size: Number of examples per batch.

    Raises:
        UserError: If there are fewer examples than processes.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int) -> None:
        joined = dist.is_available() and dist.is_initialized()
        self.num_replicas = dist.get_world_size() if joined else 1
        # A process without examples would skip collectives, and the others would wait for it.
        if len(lengths) < self.num_replicas > 1:
            raise UserError(
                f"trainer.devices: {self.num_replicas} processes for {len(lengths)} examples to "
                "evaluate: expected at least one for each"
            )
        self.rank = dist.get_rank() if joined else 0
        # Sorting is stable: equal lengths stay in the order of the data.
        order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
        order = order[self.rank :: self.num_replicas]
        batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
        # The longest stays the first, and one that is not full must stay the last.
        middle = batches[1:-1]
        random.Random(0).shuffle(middle)
        batches[1:-1] = middle
        self.order = [index for batch in batches for index in batch]

    def __iter__(self) -> Iterator[int]:
        return iter(self.order)

    def __len__(self) -> int:
        return len(self.order)

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: the order never changes."""


class TokenBudgetSampler(DistributedSampler):
    """Gives the indices of batches, each of at most a number of tokens.

    A shuffled order is cut where the next example would not fit. The batches are those of the
    seed; every epoch has them in another order. With several processes each takes every n-th;
    where their number is not a multiple of the number of processes, some come twice in an epoch,
    as single examples do with Lightning's own sampler. Lightning leaves a distributed sampler as
    it is.

    Args:
        lengths: Length of each example in tokens, none above the budget.
        tokens: Number of tokens that a batch has at most.
        seed: Seed of batches and orders.
        shuffle: Whether to change the order of the data.
    """

    def __init__(self, lengths: Sequence[int], tokens: int, seed: int, *, shuffle: bool) -> None:
        joined = dist.is_available() and dist.is_initialized()
        self.num_replicas = dist.get_world_size() if joined else 1
        self.rank = dist.get_rank() if joined else 0
        self.seed, self.epoch, self.shuffle = seed, 0, shuffle
        self.batches: list[list[int]] = []
        room = 0
        for index in self._order(len(lengths), -1):
            if lengths[index] > room:
                self.batches.append([])
                room = tokens
            self.batches[-1].append(index)
            room -= lengths[index]

    def __iter__(self) -> Iterator[list[int]]:
        order = self._order(len(self.batches), self.epoch)
        order = (order * self.num_replicas)[: len(self) * self.num_replicas]
        return iter([self.batches[number] for number in order[self.rank :: self.num_replicas]])

    def __len__(self) -> int:
        return math.ceil(len(self.batches) / self.num_replicas)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the batches."""
        self.epoch = epoch

    def _order(self, number: int, epoch: int) -> list[int]:
        if not self.shuffle:
            return list(range(number))
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
        return torch.randperm(number, generator=generator).tolist()


class Batches(Dataset):
    """Rows by lists of indices.

    Args:
        rows: The rows by index.
    """

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __getitem__(self, indices: Sequence[int]) -> list[Any]:
        return [self.rows[index] for index in indices]


class ResumableLoader(DataLoader):
    """A loader whose position is saved in a checkpoint.

    Lightning saves `state_dict` with its loops and restores it before the epoch continues.
    """

    _yielded = 0
    _skip = 0

    def state_dict(self) -> dict[str, int]:
        """Give the number of batches of this epoch that were yielded."""
        return {"yielded": self._yielded}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Skip the batches that were yielded before."""
        self._skip = state["yielded"]

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        start, self._skip = self._skip, 0
        self._yielded = start
        for batch in islice(super().__iter__(), start, None):
            self._yielded += 1
            yield batch
