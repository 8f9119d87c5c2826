"""Time and memory of every method on one model, relative to the frozen base model."""

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from tera_pl.adapters.caching import cache_delta_weights, clear_cached_delta_weights
from tera_pl.allocator import keep_freed_memory
from tera_pl.analysis.accounting import bytes_of
from tera_pl.benchmarking.mixed_batches import time_mixed_batches
from tera_pl.benchmarking.models import adapt, build_base
from tera_pl.benchmarking.timing import Timing, saved_bytes, time_interleaved
from tera_pl.models.backbone import DTYPES
from tera_pl.progress import Steps

BASELINE = "frozen"
NEW_TOKENS = 32
MEASUREMENTS = ("generation", "mixed", "step", "forward")
Models = Mapping[str, nn.Module]


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Args:
        shape: A name of `SHAPES`.
        dtype: A name of `DTYPES`, type of the weights.
        device: Device of the computation.
        methods: Names of `METHODS`.
        measurements: Names of `MEASUREMENTS`.
        tokens: Tokens per step, each a multiple of `length`; memory is measured with the last.
        length: Tokens per sequence.
        rounds: Number of interleaved rounds.
    """

    shape: str
    dtype: str
    device: torch.device
    methods: Sequence[str]
    measurements: Sequence[str]
    tokens: Sequence[int]
    length: int
    rounds: int


@dataclass(frozen=True)
class Measured:
    """The results of a benchmark.

    Args:
        settings: What was measured.
        machine: Processor or accelerator, threads and version of torch.
        timings: By measurement and method.
        memory_bytes: By method, of one training step.
    """

    settings: Settings
    machine: str
    timings: Mapping[str, Mapping[str, Timing]]
    memory_bytes: Mapping[str, int]


def measure(settings: Settings) -> Measured:
    """Measure every method beside the frozen base model.

    Args:
        settings: What to measure.

    Returns:
        Timings and memory.
    """
    device, rounds = settings.device, settings.rounds
    if device.type == "cpu":
        keep_freed_memory()  # as `fit` does
    base = build_base(settings.shape, device, DTYPES[settings.dtype])
    models = {name: adapt(base, name) for name in settings.methods}
    timings: dict[str, Mapping[str, Timing]] = {}
    steps = Steps(_num_measurements(settings))
    if "generation" in settings.measurements:
        timings["generation"] = _time_generation(base, models, rounds, device)
        steps.report("generation")
    if "mixed" in settings.measurements:
        timings |= time_mixed_batches(base, settings.methods, BASELINE, rounds, device)
        steps.report("mixed batches")
    for tokens in settings.tokens:
        ids = _random_ids(base, settings, tokens)
        for name, time_calls in (("step", _time_steps), ("forward", _time_forwards)):
            if name in settings.measurements:
                timings[f"{name}, {tokens} tokens"] = time_calls(base, models, ids, rounds)
                steps.report(f"{name}, {tokens} tokens")
    ids = _random_ids(base, settings, settings.tokens[-1])
    memory = {BASELINE: _memory(_baseline_step(base, ids), base, device)}
    memory |= {name: _memory(_step(model, ids), model, device) for name, model in models.items()}
    steps.report("memory")
    return Measured(settings, _machine(device), timings, memory)


def _num_measurements(settings: Settings) -> int:
    once = {"generation", "mixed"} & set(settings.measurements)
    per_size = {"step", "forward"} & set(settings.measurements)
    return len(once) + len(per_size) * len(settings.tokens) + 1


def _random_ids(base: PreTrainedModel, settings: Settings, tokens: int) -> torch.Tensor:
    """Draw a batch of token ids, of shape `(tokens / length, length)`."""
    shape = (tokens // settings.length, settings.length)
    return torch.randint(base.config.vocab_size, shape, device=settings.device)


def _time_steps(
    base: PreTrainedModel, models: Models, ids: torch.Tensor, rounds: int
) -> dict[str, Timing]:
    calls = {BASELINE: _baseline_step(base, ids)} | {n: _step(m, ids) for n, m in models.items()}
    return time_interleaved(calls, BASELINE, rounds, ids.device)


def _time_forwards(
    base: PreTrainedModel, models: Models, ids: torch.Tensor, rounds: int
) -> dict[str, Timing]:
    def forward(model: nn.Module) -> Callable[[], object]:
        @torch.no_grad()
        def call() -> object:
            return model(input_ids=ids, use_cache=False)

        return call

    calls = {name: forward(model) for name, model in ({BASELINE: base} | dict(models)).items()}
    return time_interleaved(calls, BASELINE, rounds, ids.device)


def _time_generation(
    base: PreTrainedModel, models: Models, rounds: int, device: torch.device
) -> dict[str, Timing]:
    """Time unmerged adapters; the base model costs as much as a merged one.

    Delta weights are cached, as they are in a validation.
    """
    ids = torch.randint(base.config.vocab_size, (8, 64), device=device)

    def generate(model: Any) -> Callable[[], object]:
        return lambda: model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            min_new_tokens=NEW_TOKENS,
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            pad_token_id=0,
        )

    all_models: Models = {BASELINE: base} | dict(models)
    for model in all_models.values():
        model.eval()
        cache_delta_weights(model)
    calls = {name: generate(model) for name, model in all_models.items()}
    timings = time_interleaved(calls, BASELINE, rounds, device)
    for model in all_models.values():
        clear_cached_delta_weights(model)
        model.train()
    return timings


def _baseline_step(base: PreTrainedModel, ids: torch.Tensor) -> Callable[[], object]:
    """Forward of the frozen model and backward to its inputs, which no adapter avoids."""

    def call() -> None:
        embedded = base.get_input_embeddings()(ids).detach().requires_grad_()
        base(inputs_embeds=embedded, labels=ids, use_cache=False).loss.backward()

    return call


def _step(model: nn.Module, ids: torch.Tensor) -> Callable[[], object]:
    def call() -> None:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        model.zero_grad()

    return call


def _memory(call: Callable[[], object], model: nn.Module, device: torch.device) -> int:
    """Peak memory of a step on an accelerator; on a CPU the bytes saved for backward."""
    if device.type != "cuda":
        return saved_bytes(call, model)
    call()
    torch.cuda.reset_peak_memory_stats(device)
    # The models of the other methods are on the device too.
    others = torch.cuda.memory_allocated(device) - bytes_of((*model.parameters(), *model.buffers()))
    call()
    return torch.cuda.max_memory_allocated(device) - others


def _machine(device: torch.device) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    name = name or platform.machine()
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"
