"""The whole pipeline beside plain Hugging Face: the same files, model and machine, in turns.

Run:  python -m tera_pl.benchmarking.pipeline --config X --peer Y --output DIR [overrides]
"""

import argparse
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

from tera_pl.checkpointing.atomic_writes import OVERWRITE_HELP, atomic_folder, write_atomically
from tera_pl.cli import guard
from tera_pl.errors import RunStoppedError

KIND = "pipeline benchmark"
MEASURED = ("train_tokens", "train_seconds", "tokens_per_second", "peak_memory_bytes")


def main(args: Sequence[str]) -> int:
    """Train configurations by `fit` and one by transformers' Trainer, each in its own process.

    Writes `pipeline.json` and a table, with ratios to the Trainer's run of the same round. What
    is no argument of its own overrides a value in all configurations.

    Args:
        args: Arguments of the command.

    Returns:
        0.

    Raises:
        RunStoppedError: If a run fails.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tera_pl.benchmarking.pipeline", description=main.__doc__
    )
    parser.add_argument("--config", nargs="+", type=Path, required=True, help="for `fit`")
    parser.add_argument("--peer", type=Path, required=True, help="for transformers' Trainer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, required=True, help="folder of pipeline.json, .md")
    parser.add_argument("--overwrite", action="store_true", help=OVERWRITE_HELP)
    options, overrides = parser.parse_known_args(args)
    with atomic_folder(options.output, KIND, replace=options.overwrite) as folder:
        table = _compare(options, overrides, folder)
    sys.stdout.write(table)
    return 0


def _compare(options: argparse.Namespace, overrides: Sequence[str], output: Path) -> str:
    """Train every configuration in turns, write what was measured, and give it as a table."""
    rounds = []
    progress = Progress(options.rounds * (1 + len(options.config)))
    for number in range(options.rounds):
        found = {"Trainer": _train_peer(options.peer, overrides)}
        progress.report(f"round {number + 1}, Trainer", found["Trainer"])
        folder = output / "runs" / f"round{number}"
        for config in options.config:
            found[config.stem] = _fit(config, overrides, folder)
            progress.report(f"round {number + 1}, {config.stem}", found[config.stem])
        rounds.append(found)
    report = {
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores, torch {torch.__version__}",
        "threads": torch.get_num_threads(),
        "overrides": overrides,
        "rounds": rounds,
    }
    table = as_table(rounds)
    write_atomically(output / "pipeline.json", json.dumps(report, indent=2) + "\n")
    write_atomically(output / "pipeline.md", table)
    return table


class Progress:
    """Report finished runs on stderr, with an estimate of the time left.

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
            measured: What was measured, `tokens_per_second` among it.
        """
        self.done += 1
        left = (time.monotonic() - self._start) / self.done * (self.total - self.done)
        sys.stderr.write(
            f"{self.done}/{self.total} {name}: {measured['tokens_per_second']:,.0f} tokens/s, "
            f"about {left:.0f} s left\n"
        )


def as_table(rounds: Sequence[dict[str, dict[str, float]]]) -> str:
    """Lay rounds out as a Markdown table: medians over rounds of the ratio within a round."""
    lines = [
        "| | tokens/s, ratio to the Trainer | lowest | highest | peak memory, ratio | tokens |",
        "|---|---|---|---|---|---|",
    ]
    for name in rounds[0]:
        speed, memory = (
            [found[name][key] / found["Trainer"][key] for found in rounds]
            for key in ("tokens_per_second", "peak_memory_bytes")
        )
        lines.append(
            f"| {name} | {statistics.median(speed):.2f} | {min(speed):.2f} | {max(speed):.2f} | "
            f"{statistics.median(memory):.2f} | {rounds[0][name]['train_tokens']:,} |"
        )
    return "\n".join(lines) + "\n"


def _train_peer(config: Path, overrides: Sequence[str]) -> dict[str, Any]:
    told = _call("tera_pl.benchmarking.hf_trainer", "--config", config, *overrides)
    return json.loads(told.rstrip().rpartition("\n")[2])


def _fit(config: Path, overrides: Sequence[str], folder: Path) -> dict[str, Any]:
    logger = "--trainer.logger.init_args"
    where = (f"{logger}.save_dir={folder}", f"{logger}.name={config.stem}")
    _call("tera_pl", "fit", "--config", config, *overrides, *where)
    runs = sorted((folder / config.stem).glob("version_*"), key=lambda path: path.stat().st_mtime)
    resources = json.loads((runs[-1] / "results.json").read_text())["fit"]["resources"]
    return {key: resources[key] for key in MEASURED}


def _call(module: str, *arguments: str | Path) -> str:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunStoppedError(f"{' '.join(command)} failed: {done.stderr.strip()[-500:]}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(guard(lambda: main(sys.argv[1:])))
