"""Time batches that mix adapters, PEFT's `adapter_names`."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from tera_pl.benchmarking.models import METHODS, adapt
from tera_pl.benchmarking.timing import Timing, time_interleaved

# PEFT refuses mixed batches for most of the others.
MIXING_METHODS = ("tera", "tera_identity", "lora_r32")
BATCH_SIZE, LENGTH = 64, 16
NUM_ADAPTERS = (1, 8, 64)


def time_mixed_batches(
    base: PreTrainedModel, methods: Sequence[str], baseline: str, rounds: int, device: torch.device
) -> dict[str, dict[str, Timing]]:
    """Time the forward pass of a batch of short examples for growing numbers of adapters in it.

    Args:
        base: The frozen base model.
        methods: Names of `METHODS`; those outside of `MIXING_METHODS` are skipped.
        baseline: Name under which the base model is timed.
        rounds: Number of interleaved rounds.
        device: Device of the model.

    Returns:
        Timings by number of adapters and method.
    """
    ids = torch.randint(base.config.vocab_size, (BATCH_SIZE, LENGTH), device=device)

    def forward(model: Any, **names: Any) -> Callable[[], object]:
        @torch.no_grad()
        def call() -> object:
            return model(input_ids=ids, use_cache=False, **names)

        return call

    calls = {baseline: forward(base)}
    chosen = [method for method in methods if method in MIXING_METHODS]
    for method in chosen:
        model = _with_adapters(base, method)
        for count in NUM_ADAPTERS:
            names = [f"adapter{example % count}" for example in range(BATCH_SIZE)]
            calls[f"{method}, {count}"] = forward(model, adapter_names=names)
    timings = time_interleaved(calls, baseline, rounds, device)
    return {
        f"{count} adapters in a batch": {baseline: timings[baseline]}
        | {method: timings[f"{method}, {count}"] for method in chosen}
        for count in NUM_ADAPTERS
    }


def _with_adapters(base: PreTrainedModel, method: str) -> Any:
    model: Any = adapt(base, method)
    for index in range(max(NUM_ADAPTERS)):
        model.add_adapter(f"adapter{index}", copy.deepcopy(METHODS[method]))
    return model.eval()
