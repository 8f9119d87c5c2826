"""Time and memory of every method, beside the frozen model."""

import json
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import nn
from transformers import PreTrainedModel

from tera_pl.analysis.accounting import bytes_of
from tera_pl.benchmarking.mixed_batches import time_mixed_batches
from tera_pl.benchmarking.models import METHODS, SHAPES, adapt, build_base
from tera_pl.benchmarking.timing import Timing, kept_bytes, time_in_turns
from tera_pl.checkpointing.atomic_writes import (
    OVERWRITE_HELP,
    atomic_folder,
    check_target,
    write_atomically,
)
from tera_pl.commands.arguments import Parser
from tera_pl.errors import UserError
from tera_pl.models.backbone import DTYPES, cache_delta_weights, clear_cached_delta_weights
from tera_pl.reporting.drawing import save, style

KIND = "benchmark"
FLOOR = "frozen"
NEW_TOKENS = 32
MEASUREMENTS = ("generation", "mixed", "step", "forward")


def main(args: Sequence[str]) -> int:
    """Time a step, a forward pass and generation of every method beside those of the frozen model.

    Forward passes of one batch for many adapters are timed of the methods that can do them.

    Args:
        args: Arguments of the command.

    Returns:
        0.

    Raises:
        UserError: If a method is unknown, or a number of tokens is not whole sequences.
    """
    parser = Parser("benchmark", main.__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="cpu_small")
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024, 4096], help="per step")
    parser.add_argument("--length", type=int, default=256, help="tokens per sequence")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), help="of METHODS")
    parser.add_argument("--measure", choices=MEASUREMENTS, nargs="+", default=MEASUREMENTS)
    parser.add_argument("--rounds", type=int, default=9, help="of the interleaved timings")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=DTYPES, help="of the weights")
    parser.add_argument("--output", type=Path, required=True, help="folder of the results")
    parser.add_argument("--overwrite", action="store_true", help=OVERWRITE_HELP)
    options = parser.parse_args(args)
    check_target(options.output, KIND, replace=options.overwrite)
    if unknown := set(options.methods) - METHODS.keys():
        raise UserError(
            f"--methods: {', '.join(sorted(unknown))} unknown: expected {', '.join(METHODS)}"
        )
    length = options.length
    if length < 2:
        raise UserError(f"--length is {length}: expected at least 2 tokens")
    if any(tokens < length or tokens % length for tokens in options.tokens):
        raise UserError(f"--tokens: {options.tokens}: expected multiples of {length}")
    if options.rounds < 1:
        raise UserError(f"--rounds is {options.rounds}: expected at least 1")
    device = _open_device(options.device)
    dtype = options.dtype or ("bfloat16" if device.type == "cuda" else "float32")
    base = build_base(options.shape, device, DTYPES[dtype])
    models = {name: adapt(base, name) for name in options.methods}
    measured: dict[str, dict[str, Timing]] = {}
    if "generation" in options.measure:
        measured["generation"] = _time_generation(base, models, options.rounds, device)
    if "mixed" in options.measure:
        measured |= time_mixed_batches(base, options.methods, FLOOR, options.rounds, device)
    for tokens in options.tokens:
        ids = torch.randint(base.config.vocab_size, (tokens // length, length), device=device)
        for name, time_them in (("step", _time_steps), ("forward", _time_forwards)):
            if name in options.measure:
                measured[f"{name}, {tokens} tokens"] = time_them(base, models, ids, options.rounds)
    ids = torch.randint(base.config.vocab_size, (options.tokens[-1] // length, length)).to(device)
    memory = {FLOOR: _memory(_baseline_step(base, ids), base, device)}
    memory |= {name: _memory(_step(m, ids), m, device) for name, m in models.items()}
    report = {
        "shape": options.shape,
        "dtype": dtype,
        "machine": _machine(device),
        "rounds": options.rounds,
        "timings": {k: {n: asdict(t) for n, t in v.items()} for k, v in measured.items()},
        "memory_bytes": memory,
        "length": length,
        "memory_tokens": options.tokens[-1],
    }
    table = _table(measured, memory)
    with atomic_folder(options.output, KIND, replace=options.overwrite) as folder:
        write_atomically(folder / "benchmark.json", json.dumps(report, indent=2) + "\n")
        write_atomically(folder / "benchmark.md", table)
        save(_draw(measured, options.shape), folder / "benchmark")
    sys.stdout.write(table)
    return 0


def _open_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise NotImplementedError("nothing is computed there")
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).split("\n")[0][:200]
        raise UserError(f"--device: {name!r} cannot be used ({reason})") from error
    return device


def _time_steps(
    base: PreTrainedModel, models: Mapping[str, nn.Module], ids: torch.Tensor, rounds: int
) -> dict[str, Timing]:
    calls = {FLOOR: _baseline_step(base, ids)} | {n: _step(m, ids) for n, m in models.items()}
    return time_in_turns(calls, FLOOR, rounds, ids.device)


def _time_forwards(
    base: PreTrainedModel, models: Mapping[str, nn.Module], ids: torch.Tensor, rounds: int
) -> dict[str, Timing]:
    def forward(model: nn.Module) -> Callable[[], object]:
        @torch.no_grad()
        def call() -> object:
            return model(input_ids=ids, use_cache=False)

        return call

    calls = {FLOOR: forward(base)} | {name: forward(model) for name, model in models.items()}
    return time_in_turns(calls, FLOOR, rounds, ids.device)


def _time_generation(
    base: PreTrainedModel, models: Mapping[str, nn.Module], rounds: int, device: torch.device
) -> dict[str, Timing]:
    """Unmerged adapters beside the bare model, which costs what a merged one does.

    As a validation does it: updates are built once, before the first of many batches.
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

    everything = {FLOOR: base} | dict(models)
    for model in everything.values():
        model.eval()
        cache_delta_weights(model)
    calls = {name: generate(model) for name, model in everything.items()}
    timings = time_in_turns(calls, FLOOR, rounds, device)
    for model in everything.values():
        clear_cached_delta_weights(model)
        model.train()
    return timings


def _baseline_step(base: PreTrainedModel, ids: torch.Tensor) -> Callable[[], object]:
    """Forward of the frozen model, and backward to its inputs: what no adapter can avoid."""

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
    """Bytes at the peak of a step on an accelerator; on a CPU what is kept for backward."""
    if device.type != "cuda":
        return kept_bytes(call, model)
    call()
    torch.cuda.reset_peak_memory_stats(device)
    # The other methods' models are there too.
    others = torch.cuda.memory_allocated(device) - bytes_of((*model.parameters(), *model.buffers()))
    call()
    return torch.cuda.max_memory_allocated(device) - others


def _machine(device: torch.device) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    name = name or platform.machine()
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def _draw(measured: Mapping[str, Mapping[str, Timing]], shape: str) -> Figure:
    """Ratios as points with quartiles, one panel per measurement."""
    names = list(dict.fromkeys(name for timings in measured.values() for name in timings))
    figure = Figure(figsize=(2.6 * len(measured) + 1.4, 4.2), layout="constrained")
    panels = figure.subplots(1, len(measured), squeeze=False, sharey=True)[0]
    for axes, (title, timings) in zip(panels, measured.items(), strict=True):
        for name, timing in timings.items():
            place = names.index(name)
            look = style(0 if name.startswith("tera") else 1)
            axes.plot([timing.low, timing.high], [place, place], color=look["color"])
            axes.plot([timing.ratio], [place], marker=look["marker"], color=look["color"])
        axes.axvline(1, color="gray", linewidth=0.8)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("time / frozen model's")
        axes.set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    figure.suptitle(f"{shape}: median and quartiles of the rounds")
    return figure


def _table(measured: Mapping[str, Mapping[str, Timing]], memory: Mapping[str, int]) -> str:
    lines = ["| | " + " | ".join([*measured, "memory"]) + " |", "|---" * (len(measured) + 2) + "|"]
    for name in memory:
        cells = [
            f"{timings[name].ratio:.2f} [{timings[name].low:.2f}, {timings[name].high:.2f}]"
            if name in timings
            else "-"
            for timings in measured.values()
        ]
        lines.append(f"| {name} | {' | '.join(cells)} | {memory[name] / memory[FLOOR]:.2f} |")
    return "\n".join(lines) + "\n"
