"""Interleaved timings, so that a disturbance of the machine affects all calls alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Timing:
    """Time of one call, and its ratio to the baseline timed in the same rounds.

    Args:
        seconds: Median over the rounds.
        ratio: Median over the rounds of the time over the mean of the two baseline calls around it.
        low: Lower quartile of that ratio.
        high: Upper quartile of that ratio.
    """

    seconds: float
    ratio: float
    low: float
    high: float


def time_interleaved(
    calls: Mapping[str, Callable[[], object]], baseline: str, rounds: int, device: torch.device
) -> dict[str, Timing]:
    """Time several calls in rounds, each between two calls of the baseline.

    The load of a machine changes within seconds: it cancels in a ratio only if both calls are close
    in time. Each call runs once as a warm-up that is not timed.

    Args:
        calls: Functions to time, by name.
        baseline: Name of the call that ratios are taken to.
        rounds: Number of rounds, at least 2. Every second one runs in reverse order.
        device: Device of the computation; it is synchronized before and after each call.

    Returns:
        Timings by name.
    """

    def timed(call: Callable[[], object]) -> float:
        _synchronize(device)
        start = time.perf_counter()
        call()
        _synchronize(device)
        return time.perf_counter() - start

    for call in calls.values():
        call()
    names = [name for name in calls if name != baseline]
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    ratios: dict[str, list[float]] = {name: [] for name in names}
    for index in range(rounds):
        seconds[baseline].append(timed(calls[baseline]))
        for name in names if index % 2 == 0 else reversed(names):
            seconds[name].append(timed(calls[name]))
            seconds[baseline].append(timed(calls[baseline]))
            ratios[name].append(seconds[name][-1] / statistics.mean(seconds[baseline][-2:]))
    return {baseline: Timing(statistics.median(seconds[baseline]), 1, 1, 1)} | {
        name: Timing(statistics.median(seconds[name]), *_quartiles(ratios[name])) for name in names
    }


def _quartiles(ratios: list[float]) -> tuple[float, float, float]:
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return middle, low, high


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def saved_bytes(call: Callable[[], object], model: torch.nn.Module) -> int:
    """Sum the bytes that autograd saves for backward during a training step.

    Args:
        call: The step.
        model: Its model, whose parameters and buffers are not counted.

    Returns:
        Bytes; tensors that share memory are counted once.
    """
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        call()
    return sum(saved.values())
