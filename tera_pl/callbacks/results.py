"""Write every score of a run, with what it depends on, to one file."""

import importlib.metadata
import json
import os
import platform
import time
from dataclasses import asdict
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from tera_pl.callbacks.resources import ResourceMonitor
from tera_pl.checkpointing.atomic_writes import write_atomically
from tera_pl.checkpointing.run_directory import run_directory

PACKAGES = ("tera-pl", "torch", "lightning", "transformers", "peft", "datasets", "torchmetrics")


class ResultsWriter(Callback):
    """Write `results.json` at the end of fit, validate and test.

    One section per stage with its scores; the settings of adapter, backbone, optimizer and data
    they were reached with; counts, bytes, seconds, peak memory; seed and versions. A stage that is
    run again moves its older section to `previous`.
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
        """Remember the scores of a validation, or write them if it is one of its own."""
        if trainer.state.fn == "fit":
            self._validation = {k: v for k, v in _scores(trainer).items() if k.startswith("val/")}
        if trainer.state.fn == "validate":
            self._write(trainer, pl_module, "validate")

    def on_test_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Write the test scores."""
        self._write(trainer, pl_module, "test")

    def state_dict(self) -> dict[str, Any]:
        """Keep the scores of the last validation: a run that goes on may not validate again."""
        return {"validation": self._validation}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them over."""
        self._validation = state_dict["validation"]

    def _write(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
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
            "step": trainer.global_step,
        }
        if pl_module.changed:
            section["changed_since_checkpoint"] = pl_module.changed
        if missing := getattr(pl_module.metric, "missing", None):
            section["missing_scores"] = missing
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, ResourceMonitor) and callback.summary:
                section["resources"] = callback.summary
        results[stage] = section
        results["settings"] = pl_module.spec | {
            "backbone": asdict(pl_module.backbone) | pl_module.spec["backbone"],
            "data": _describe_data(trainer),
            "protocol": _describe_protocol(trainer, pl_module),
        }
        results["environment"] = _environment()
        write_atomically(path, json.dumps(results, indent=2, ensure_ascii=False) + "\n")


def _scores(trainer: Trainer) -> dict[str, float]:
    return {k: float(v) for k, v in sorted(trainer.callback_metrics.items())}


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
    described: dict[str, Any] = {"class": f"{type(data).__module__}.{type(data).__qualname__}"}
    if hasattr(data, "statistics"):
        described["statistics"] = data.statistics()
    return described


def _describe_protocol(trainer: Trainer, pl_module: Any) -> dict[str, Any]:
    """Tell what makes scores comparable: template, mask, split, decoding, extraction, selection."""
    data, metric = trainer.datamodule, pl_module.metric  # type: ignore[attr-defined]
    checkpoint = trainer.checkpoint_callback
    return (data.describe_protocol() if hasattr(data, "describe_protocol") else {}) | {
        "generation": asdict(pl_module.generation),
        "metric": None if metric is None else type(metric).__name__,
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
