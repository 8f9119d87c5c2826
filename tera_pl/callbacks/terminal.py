"""Print what a person needs of a run: what it is, its scores, and what it wrote."""

import math
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from tera_pl.adapters.quantized import quantized_layers
from tera_pl.analysis import count
from tera_pl.callbacks.task import Task
from tera_pl.checkpointing.run_directory import run_directory
from tera_pl.contracts import complete
from tera_pl.progress import CONSOLE, Pace

SECONDS_BETWEEN_LINES = 60.0
SPLITS = ("train", "val", "test")


class Terminal(Callback):
    """Print a header, a line for each validation, and the end with the next command.

    The lines go to stdout. Where no progress line is shown, as in a log file, a line per minute
    says how far training is.

    Args:
        quiet: Print nothing but the scores of `validate` and `test`.
        rate: The learning rate and where it is from, if the configuration has none.
    """

    def __init__(self, *, quiet: bool = False, rate: str | None = None) -> None:
        self.quiet = quiet
        self.rate = rate
        self.scores = True
        self._pace = Pace(0, None)
        self._last_line = 0.0

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Print what is trained, on what, and where it logs."""
        self._head(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Start the clock."""
        steps = trainer.estimated_stepping_batches
        self._pace = Pace(trainer.global_step, steps if math.isfinite(steps) else None)
        self._last_line = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Print a line now and then where there is no progress line."""
        late = time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES
        if late and not CONSOLE.is_terminal:
            self._progress(trainer, "train/")

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Print what `validate` evaluates."""
        if trainer.state.fn == "validate":
            self._head(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Print the scores."""
        if trainer.state.fn == "validate":
            self._results(trainer, "val/")
        elif not trainer.sanity_checking:
            self._progress(trainer, "val/")

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Print the best checkpoint and the command that tests it."""
        run = run_directory(trainer)
        rows = {"finished": f"step {trainer.global_step} after {self._pace.elapsed()}"}
        checkpoint = trainer.checkpoint_callback
        if isinstance(checkpoint, ModelCheckpoint) and checkpoint.best_model_path:
            path = _relative(checkpoint.best_model_path)
            rows["best"] = path
            if checkpoint.best_model_score is not None:
                score = as_score(float(checkpoint.best_model_score))
                rows["best"] = f"{checkpoint.monitor} {score}: {path}"
            config = _relative(_config_of(run))
            rows["next"] = _command("test", "--config", config, "--ckpt_path", path)
        self._write(trainer, rows)

    def on_test_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Print what is evaluated."""
        self._head(trainer, pl_module)

    on_predict_start = on_test_start

    def on_test_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Print the scores, what was written, and the command that exports the checkpoint."""
        self._results(trainer, "test/")
        run = _relative(run_directory(trainer))
        rows = {"wrote": f"results.json and the predictions in {run}"}
        if trainer.ckpt_path:
            path = _relative(str(trainer.ckpt_path))
            rows["next"] = _command("export", "--ckpt_path", path, "--output", "exported")
        self._write(trainer, rows)

    def on_predict_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Print where the predictions are."""
        run = _relative(run_directory(trainer))
        self._write(trainer, {"wrote": f"the predictions in {run}"})

    def _head(self, trainer: Trainer, task: Task) -> None:
        run = run_directory(trainer)
        if self.quiet or not trainer.is_global_zero:
            return
        rows = {"model": _describe_model(task), "method": _describe_method(task)}
        rows["data"] = _describe_data(trainer)
        if trainer.state.fn == "fit":
            rows["training"] = _describe_training(trainer)
            if self.rate is not None:
                rows["rate"] = self.rate
        if trainer.ckpt_path:
            what = "resumes from" if trainer.state.fn == "fit" else "checkpoint"
            rows[what] = _relative(str(trainer.ckpt_path))
        names = [type(logger).__name__.removesuffix("Logger") for logger in trainer.loggers]
        rows["logs"] = f"{_relative(run)} ({', '.join(names) or 'no logger'})"
        self._write(trainer, rows)

    def _progress(self, trainer: Trainer, prefix: str) -> None:
        """Print a line with the step, scores and the time left."""
        self._last_line = time.monotonic()
        step, total = trainer.global_step, self._pace.total
        scores = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith((prefix, "train/"))
            and name.count("/") == 1
            and not name.endswith("_se")
        }
        parts = [f"step {step}" if total is None else f"step {step}/{total:.0f}"]
        parts += [f"{name} {as_score(value)}" for name, value in scores.items()]
        parts += [self._pace.left(step)] if total and step < total else []
        self._print(trainer, "  ".join(part for part in parts if part))

    def _results(self, trainer: Trainer, prefix: str) -> None:
        """Print scores, one per line."""
        found = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith(prefix)}
        if self.scores and trainer.is_global_zero and found:
            width = max(map(len, found))
            lines = [f"{name:<{width}}  {as_score(value)}\n" for name, value in found.items()]
            sys.stdout.write("".join(lines))
            sys.stdout.flush()

    def _write(self, trainer: Trainer, rows: dict[str, str]) -> None:
        width = max(map(len, rows))
        self._print(trainer, "\n".join(f"{key:<{width}}  {rows[key]}" for key in rows))

    def _print(self, trainer: Trainer, text: str) -> None:
        if trainer.is_global_zero and not self.quiet:
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()


def as_score(value: float) -> str:
    """Round a score for a person; files keep its full precision.

    Args:
        value: The score.

    Returns:
        Four significant digits.

    Example:
        >>> as_score(0.18181818181818182)
        '0.1818'
    """
    return f"{value:.4g}"


def _describe_model(task: Task) -> str:
    model = task.model.get_base_model() if task.adapter else task.model
    counts = count(task.model)
    base = counts.base + (0 if task.adapter else counts.trained)
    dtype = str(model.dtype).removeprefix("torch.")
    layers = len(quantized_layers(model))
    quantized = f", {layers} layers quantized" if layers else ""
    return f"{task.backbone.path}: {type(model).__name__}, {base:,} parameters, {dtype}{quantized}"


def _describe_method(task: Task) -> str:
    counts = count(task.model)
    trainable = f"{counts.trained:,} trainable parameters ({counts.trained_percent:.3g} %)"
    if task.adapter is None:
        return f"full fine-tuning: {trainable}"
    # The model's own settings have the targets that were chosen by default.
    targets = getattr(task.model.peft_config["default"], "target_modules", None) or []
    names = [targets] if isinstance(targets, str) else sorted(targets)
    where = f" on {', '.join(names)}" if 0 < len(names) <= 8 else ""
    return f"{type(task.adapter).__name__}{where}: {trainable}"


def _describe_data(trainer: Trainer) -> str:
    data = trainer.datamodule  # type: ignore[attr-defined]
    found = complete(data).statistics() or {}
    counts = {
        split: found[split]["examples"]
        for split in SPLITS
        if isinstance(found.get(split), dict) and "examples" in found[split]
    }
    examples = ", ".join(f"{split} {number:,}" for split, number in counts.items())
    return f"{type(data).__name__}: {examples} examples" if counts else type(data).__name__


def _describe_training(trainer: Trainer) -> str:
    steps = trainer.estimated_stepping_batches
    parts = [f"{steps:,} steps" if math.isfinite(steps) else "until stopped"]
    if trainer.world_size > 1:
        parts.append(f"{trainer.world_size} processes")
    parts.append(str(trainer.strategy.root_device))
    return ", ".join([*parts, str(trainer.precision)])


def _relative(path: str | Path) -> str:
    """Shorten a path below the current folder."""
    here, path = Path.cwd(), Path(path).absolute()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _config_of(run: Path) -> Path:
    """Give the newest configuration of a run: a resumed one may have other settings."""
    resumed = run / "config_fit.yaml"
    return resumed if resumed.exists() else run / "config.yaml"


def _command(*arguments: str) -> str:
    return shlex.join(["python", "-m", "tera_pl", *arguments])
