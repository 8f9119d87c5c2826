"""Write the scores of a run, with the settings they depend on, to `results.json`."""

import importlib.metadata
import json
import os
import platform
import time
from dataclasses import asdict
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from tera_pl.callbacks.resources import find_monitor
from tera_pl.callbacks.task import Task, step_of
from tera_pl.checkpointing.atomic_writes import write_atomically
from tera_pl.checkpointing.run_directory import keep_older, run_directory
from tera_pl.checkpointing.run_spec import class_path
from tera_pl.contracts import IncompleteMetric, complete
from tera_pl.reporting.record_losses import losses_file, write_losses

PACKAGES = ("tera-pl", "torch", "lightning", "transformers", "peft", "datasets", "torchmetrics")


class ResultsWriter(Callback):
    """Write `results.json` at the end of fit, validate and test.

    It has one section per stage with its scores; the settings of adapter, backbone, optimizer and
    data; counts, bytes, seconds, peak memory; seed and versions. When a stage runs again, its older
    section moves to `previous`. The loss of every record is in `losses_<stage>.csv`; that of `fit`
    is of its last validation.
    """

    def __init__(self) -> None:
        self._start = 0.0
        self._validation: dict[str, float] = {}

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Write the scores of training and the last validation."""
        self._write(trainer, pl_module, "fit")

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Remember the scores of a validation in `fit`; write those of `validate`."""
        if trainer.state.fn == "fit":
            self._validation = {k: v for k, v in _scores(trainer).items() if k.startswith("val/")}
            if not trainer.sanity_checking:
                _write_losses(trainer, pl_module, "fit")
        if trainer.state.fn == "validate":
            _write_losses(trainer, pl_module, "validate")
            self._write(trainer, pl_module, "validate")

    def on_test_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Write the test scores."""
        _write_losses(trainer, pl_module, "test")
        self._write(trainer, pl_module, "test")

    def state_dict(self) -> dict[str, Any]:
        """Save the scores of the last validation: a resumed run may not validate again."""
        return {"validation": self._validation}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the scores of the last validation."""
        self._validation = state_dict["validation"]

    def _write(self, trainer: Trainer, task: Task, stage: str) -> None:
        path = run_directory(trainer) / "results.json"
        if not trainer.is_global_zero:
            return
        results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if stage in results:
            results.setdefault("previous", []).append({stage: results[stage]})
        section = {
            "scores": (self._validation if stage == "fit" else {}) | _scores(trainer),
            "checkpoint": _checkpoint(trainer, stage),
            "seconds": time.perf_counter() - self._start,
            "step": step_of(trainer, task),
        }
        if task.changed:
            section["changed_since_checkpoint"] = task.changed
        if isinstance(task.metric, IncompleteMetric) and task.metric.missing:
            section["missing_scores"] = task.metric.missing
        monitor = find_monitor(trainer)
        if monitor is not None and monitor.summary:
            section["resources"] = monitor.summary
        results[stage] = section
        results["settings"] = task.spec.as_dict() | {
            "backbone": asdict(task.backbone) | task.spec.backbone,
            "data": _describe_data(trainer),
            "protocol": _describe_protocol(trainer, task),
        }
        results["environment"] = _environment()
        write_atomically(path, json.dumps(results, indent=2, ensure_ascii=False) + "\n")


def _write_losses(trainer: Trainer, task: Task, stage: str) -> None:
    path = run_directory(trainer) / losses_file(stage)
    if not trainer.is_global_zero:
        return
    if stage != "fit":  # whose validations follow each other
        keep_older(path)
    write_losses(path, task.record_losses)


def _scores(trainer: Trainer) -> dict[str, float]:
    metrics = sorted(trainer.callback_metrics.items())
    return {name: float(value) for name, value in metrics if name != "step"}


def _checkpoint(trainer: Trainer, stage: str) -> dict[str, Any]:
    callback = trainer.checkpoint_callback
    if stage != "fit":
        return {"path": str(trainer.ckpt_path) if trainer.ckpt_path else None}
    if callback is None:
        return {"path": None}
    score = getattr(callback, "best_model_score", None)
    return {
        "path": getattr(callback, "best_model_path", None),
        "monitor": getattr(callback, "monitor", None),
        "best_score": None if score is None else float(score),
    }


def _describe_data(trainer: Trainer) -> dict[str, Any]:
    data = trainer.datamodule  # type: ignore[attr-defined]
    statistics = complete(data).statistics()
    described = {"class": class_path(data)}
    return described if statistics is None else described | {"statistics": statistics}


def _describe_protocol(trainer: Trainer, task: Task) -> dict[str, Any]:
    """Describe what scores depend on: template, mask, split, decoding, extraction, selection."""
    data = complete(trainer.datamodule)  # type: ignore[attr-defined]
    checkpoint = trainer.checkpoint_callback
    return (data.describe_protocol() or {}) | {
        "generation": asdict(task.generation),
        "metric": None if task.metric is None else type(task.metric).__name__,
        "selection": {
            "monitor": getattr(checkpoint, "monitor", None),
            "mode": getattr(checkpoint, "mode", None),
        },
    }


def _environment() -> dict[str, Any]:
    cuda = torch.cuda.is_available()
    return {
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if cuda else f"{os.cpu_count()} CPU cores",
        "seed_everything": os.environ.get("PL_GLOBAL_SEED"),
    }
