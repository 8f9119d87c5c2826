"""Time things side by side: in turns, so that whatever disturbs one disturbs all."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Timing:
    """Seconds of one thing, and its ratio to another that was timed in the same rounds.

    Args:
        seconds: Median over the rounds.
        ratio: Median over the rounds of the ratio to the mean of the other's before and after it.
        low: Lower quartile of that ratio.
        high: Upper quartile.
    """

    seconds: float
    ratio: float
    low: float
    high: float


def time_in_turns(
    calls: Mapping[str, Callable[[], object]], floor: str, rounds: int, device: torch.device
) -> dict[str, Timing]:
    """Time several calls in turns, each between two calls of the floor, after a round for nothing.

    What else a machine does comes and goes within seconds, and would be a part of the ratio of two
    calls that are further apart.

    Args:
        calls: What to time, by name.
        floor: The name that ratios are taken to.
        rounds: How many rounds, at least 3. Every second one runs backwards.
        device: Where the work is done; waited for.

    Returns:
        Timings by name.
    """

    def timed(call: Callable[[], object]) -> float:
        _wait(device)
        start = time.perf_counter()
        call()
        _wait(device)
        return time.perf_counter() - start

    for call in calls.values():
        call()
    names = [name for name in calls if name != floor]
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    ratios: dict[str, list[float]] = {name: [] for name in names}
    for index in range(rounds):
        seconds[floor].append(timed(calls[floor]))
        for name in names if index % 2 == 0 else reversed(names):
            seconds[name].append(timed(calls[name]))
            seconds[floor].append(timed(calls[floor]))
            ratios[name].append(seconds[name][-1] / statistics.mean(seconds[floor][-2:]))
    return {floor: Timing(statistics.median(seconds[floor]), 1, 1, 1)} | {
        name: Timing(statistics.median(seconds[name]), *_quartiles(ratios[name])) for name in names
    }


def _quartiles(ratios: list[float]) -> tuple[float, float, float]:
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return middle, low, high


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def kept_bytes(call: Callable[[], object], model: torch.nn.Module) -> int:
    """Sum the bytes that autograd keeps for backward while a step runs.

    Args:
        call: The step.
        model: Its model, whose own tensors do not count.

    Returns:
        Bytes; of tensors that share memory once.
    """
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        call()
    return sum(kept.values())
