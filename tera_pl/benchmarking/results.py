"""Write the results of a benchmark: JSON, a table and a figure."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from tera_pl.benchmarking.methods import BASELINE, Measured
from tera_pl.checkpointing.atomic_writes import atomic_folder, write_atomically
from tera_pl.reporting.drawing import save, style

KIND = "benchmark"


def write_results(measured: Measured, output: Path, *, overwrite: bool = False) -> None:
    """Write `benchmark.json`, `benchmark.md` and `benchmark.png`.

    Args:
        measured: The results.
        output: Folder to write.
        overwrite: Whether an earlier benchmark's folder is replaced.
    """
    with atomic_folder(output, KIND, replace=overwrite) as folder:
        write_atomically(folder / "benchmark.json", json.dumps(_to_json(measured), indent=2) + "\n")
        write_atomically(folder / "benchmark.md", as_table(measured))
        save(draw(measured), folder / "benchmark.png")


def as_table(measured: Measured) -> str:
    """Format ratios to the baseline as a Markdown table, with quartiles in brackets."""
    timings, memory = measured.timings, measured.memory_bytes
    lines = ["| | " + " | ".join([*timings, "memory"]) + " |", "|---" * (len(timings) + 2) + "|"]
    for name in memory:
        cells = [
            f"{column[name].ratio:.2f} [{column[name].low:.2f}, {column[name].high:.2f}]"
            if name in column
            else "-"
            for column in timings.values()
        ]
        lines.append(f"| {name} | {' | '.join(cells)} | {memory[name] / memory[BASELINE]:.2f} |")
    return "\n".join(lines) + "\n"


def draw(measured: Measured) -> Figure:
    """Draw ratios as points with quartiles, one panel per measurement."""
    timings = measured.timings
    names = list(dict.fromkeys(name for column in timings.values() for name in column))
    figure = Figure(figsize=(2.6 * len(timings) + 1.4, 4.2), layout="constrained")
    panels = figure.subplots(1, len(timings), squeeze=False, sharey=True)[0]
    for axes, (title, column) in zip(panels, timings.items(), strict=True):
        for name, timing in column.items():
            position = names.index(name)
            look = style(0 if name.startswith("tera") else 1)
            axes.plot([timing.low, timing.high], [position, position], color=look["color"])
            axes.plot([timing.ratio], [position], marker=look["marker"], color=look["color"])
        axes.axvline(1, color="gray", linewidth=0.8)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("time / frozen model's")
        axes.set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    figure.suptitle(f"{measured.settings.shape}: median and quartiles of the rounds")
    return figure


def _to_json(measured: Measured) -> dict[str, Any]:
    settings = measured.settings
    return {
        "shape": settings.shape,
        "dtype": settings.dtype,
        "machine": measured.machine,
        "rounds": settings.rounds,
        "timings": {
            title: {name: asdict(timing) for name, timing in column.items()}
            for title, column in measured.timings.items()
        },
        "memory_bytes": measured.memory_bytes,
        "length": settings.length,
        "memory_tokens": settings.tokens[-1],
    }
