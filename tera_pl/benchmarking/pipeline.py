"""Compare complete training runs with a Hugging Face Trainer baseline on the same files."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tera_pl.checkpointing.atomic_writes import atomic_folder, write_atomically
from tera_pl.errors import RunStoppedError, UserError

KIND = "pipeline benchmark"
BASELINE = "hf_trainer"
MEASURED = ("train_tokens", "train_seconds", "tokens_per_second", "peak_memory_bytes")


def compare(
    configs: Sequence[Path],
    hf_trainer: Path,
    overrides: Sequence[str],
    rounds: int,
    output: Path,
    *,
    overwrite: bool = False,
) -> str:
    """Train configurations by `fit` and one by Hugging Face Trainer, each in a process of its own.

    Args:
        configs: Configurations for `fit`; the stem of a file is its name in the table.
        hf_trainer: Configuration of the baseline.
        overrides: Arguments that override values in all of them.
        rounds: How often each is trained.
        output: Folder to write: `pipeline.json`, `pipeline.md` and the runs.
        overwrite: Whether an earlier comparison's folder is replaced.

    Returns:
        The table, with ratios to the baseline of the same round.

    Raises:
        UserError: If two configurations have the same name.
        RunStoppedError: If a run fails.
    """
    names = [BASELINE, *(config.stem for config in configs)]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise UserError(
            f"--config: two rows of the table would be {min(repeated)!r}: rename a file"
        )
    with atomic_folder(output, KIND, replace=overwrite) as folder:
        progress = Progress(rounds * len(names))
        results = [
            _train_all(configs, hf_trainer, overrides, index, folder, progress)
            for index in range(rounds)
        ]
        cores = f"{platform.machine()}, {os.cpu_count()} CPU cores"
        report = {
            "machine": f"{cores}, torch {torch.__version__}",
            "threads": torch.get_num_threads(),
            "overrides": overrides,
            "rounds": results,
        }
        table = as_table(results)
        write_atomically(folder / "pipeline.json", json.dumps(report, indent=2) + "\n")
        write_atomically(folder / "pipeline.md", table)
    return table


class Progress:
    """Report finished runs on stderr, with an estimate of the remaining time.

    Args:
        total: Number of runs.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self._start = time.monotonic()

    def report(self, name: str, measured: Mapping[str, float]) -> None:
        """Report a run.

        Args:
            name: Its name.
            measured: Its measurements, `tokens_per_second` among them.
        """
        self.done += 1
        left = (time.monotonic() - self._start) / self.done * (self.total - self.done)
        sys.stderr.write(
            f"{self.done}/{self.total} {name}: {measured['tokens_per_second']:,.0f} tokens/s, "
            f"about {left:.0f} s left\n"
        )


def as_table(rounds: Sequence[dict[str, dict[str, float]]]) -> str:
    """Format rounds as a Markdown table: medians over rounds of the ratio within a round."""
    lines = [
        f"| | tokens/s, ratio to {BASELINE} | lowest | highest | peak memory, ratio | tokens |",
        "|---|---|---|---|---|---|",
    ]
    for name in rounds[0]:
        speed, memory = (
            [results[name][key] / results[BASELINE][key] for results in rounds]
            for key in ("tokens_per_second", "peak_memory_bytes")
        )
        lines.append(
            f"| {name} | {statistics.median(speed):.2f} | {min(speed):.2f} | {max(speed):.2f} | "
            f"{statistics.median(memory):.2f} | {rounds[0][name]['train_tokens']:,} |"
        )
    return "\n".join(lines) + "\n"


def _train_all(
    configs: Sequence[Path],
    hf_trainer: Path,
    overrides: Sequence[str],
    index: int,
    output: Path,
    progress: Progress,
) -> dict[str, dict[str, Any]]:
    """Train the baseline and every configuration once."""
    results = {BASELINE: _train_baseline(hf_trainer, overrides)}
    progress.report(f"round {index + 1}, {BASELINE}", results[BASELINE])
    for config in configs:
        results[config.stem] = _fit(config, overrides, output / "runs" / f"round{index}")
        progress.report(f"round {index + 1}, {config.stem}", results[config.stem])
    return results


def _train_baseline(config: Path, overrides: Sequence[str]) -> dict[str, Any]:
    printed = _call("tera_pl.benchmarking.hf_trainer", "--config", config, *overrides)
    return json.loads(printed.rstrip().rpartition("\n")[2])


def _fit(config: Path, overrides: Sequence[str], folder: Path) -> dict[str, Any]:
    logger = "--trainer.logger.init_args"
    location = (f"{logger}.save_dir={folder}", f"{logger}.name={config.stem}")
    _call("tera_pl", "fit", "--config", config, *overrides, *location)
    runs = sorted((folder / config.stem).glob("version_*"), key=lambda path: path.stat().st_mtime)
    resources = json.loads((runs[-1] / "results.json").read_text())["fit"]["resources"]
    return {key: resources[key] for key in MEASURED}


def _call(module: str, *arguments: str | Path) -> str:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        raise RunStoppedError(f"{' '.join(command)} failed: {process.stderr.strip()[-500:]}")
    return process.stdout
