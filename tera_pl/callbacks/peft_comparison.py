"""Write a run as an entry of PEFT's method comparison."""

import datetime
import importlib.metadata
import json
import platform
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer

from tera_pl.callbacks.resources import find_monitor
from tera_pl.callbacks.task import Task
from tera_pl.checkpointing.atomic_writes import write_atomically
from tera_pl.checkpointing.run_directory import run_directory
from tera_pl.contracts import complete
from tera_pl.errors import UserError
from tera_pl.private_api.transformers import attention_implementation

FILE = "peft_comparison.json"
PACKAGES = ("transformers", "peft", "datasets", "bitsandbytes", "torch")
NOT_TESTED = "trained, not tested"
KEPT = ("_metrics", "_reserved", "_samples", "_tokens", "_train_seconds", "_recent")


class PeftComparison(Callback):
    """Write `peft_comparison.json` in the layout of PEFT's `method_comparison/MetaMathQA/results`.

    `fit` writes it with status `canceled`, which PEFT's tables leave out; `test` in the same run
    directory adds the test score and sets the status to `success`. Not measured, and null:
    `forgetting`, for which PEFT scores texts that are not part of a run, and hashes of datasets.
    Memory is that of the accelerator, 0 without one. Scores, times and memory are comparable with
    PEFT's only for the same model, data, steps and device.

    Args:
        experiment_name: PEFT's name of the entry, `<method>/<name>`; by default from the adapter
            and the name of the run.
    """

    def __init__(self, experiment_name: str | None = None) -> None:
        self.experiment_name = experiment_name
        self._metrics: list[dict[str, Any]] = []
        self._reserved: list[int] = []
        self._samples = 0
        self._tokens = 0
        self._train_seconds = 0.0
        self._recent: list[dict[str, Any]] = []
        self._started = ""
        self._clocks = dict.fromkeys(("all", "fit", "validation"), 0.0)

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Start the clock of the run."""
        if find_monitor(trainer) is None:
            raise UserError("PeftComparison needs the callback ResourceMonitor, which times steps")
        self._clocks["all"] = time.perf_counter()
        self._started = datetime.datetime.now(datetime.UTC).replace(microsecond=0).isoformat()

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Start the clock of training."""
        self._clocks["fit"] = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the loss, time and memory of a step."""
        if not outputs:  # skipped: its loss was not finite
            return
        monitor = find_monitor(trainer)
        assert monitor is not None
        step = monitor.measure(batch)
        reserved, allocated = _memory()
        self._reserved.append(reserved)
        self._samples += step.examples
        self._tokens += step.tokens
        self._train_seconds += step.seconds
        loss = float(outputs["loss"]) * trainer.accumulate_grad_batches
        self._recent.append(
            {
                "loss": loss,
                "tokens": step.tokens,
                "seconds": step.seconds,
                "reserved": reserved,
                "allocated": allocated,
            }
        )

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Start the clock of a validation."""
        self._clocks["validation"] = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Average the steps since the last validation."""
        if trainer.state.fn != "fit" or trainer.sanity_checking or not self._recent:
            return
        now = time.perf_counter()
        mean = {
            key: float(np.mean([step[key] for step in self._recent])) for key in self._recent[0]
        }
        steps = len(self._recent)
        accuracy = trainer.callback_metrics.get("val/accuracy")
        self._metrics.append(
            {
                "step": trainer.global_step,
                "valid accuracy": None if accuracy is None else float(accuracy),
                "train loss": mean["loss"],
                "train samples": self._samples,
                "train time": steps * mean["seconds"],
                "eval time": now - self._clocks["validation"],
                "tokens / sec": mean["tokens"] / mean["seconds"],
                "mem allocated avg": mean["allocated"],
                "mem reserved avg": mean["reserved"],
                "elapsed time": now - self._clocks["fit"],
            }
        )
        self._recent = []

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Write the entry without a test score."""
        path = run_directory(trainer) / FILE
        if not trainer.is_global_zero or not self._metrics:
            return
        last = {
            "step": trainer.global_step,
            "test accuracy": None,
            "train loss": self._metrics[-1]["train loss"],
            "train samples": self._samples,
            "train total tokens": self._tokens,
            "forgetting": None,
        }
        total, trained = _count_parameters(pl_module.model)
        entry = {
            "run_info": {
                "created_at": self._started,
                "total_time": time.perf_counter() - self._clocks["all"],
                "experiment_name": self.experiment_name or _name(trainer, pl_module),
                "peft_branch": f"tera-pl {importlib.metadata.version('tera-pl')}",
                "train_config": _train_config(trainer, pl_module),
                "peft_config": _peft_config(pl_module),
                "error_msg": NOT_TESTED,
            },
            "train_info": {
                "accelerator_memory_reserved_avg": int(np.mean(self._reserved)),
                "accelerator_memory_max": max(self._reserved),
                "accelerator_memory_reserved_99th": int(np.percentile(self._reserved, 99)),
                "train_time": self._train_seconds,
                "file_size": _file_size(path.parent, pl_module.model),
                "num_trainable_params": trained,
                "num_total_params": total,
                "status": "canceled",
                "metrics": [*self._metrics, last],
            },
            "meta_info": _meta_info(trainer, pl_module),
        }
        write_atomically(path, json.dumps(entry, indent=2) + "\n")

    def on_test_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Add the test score to the entry of the same folder, if there is one."""
        path = run_directory(trainer) / FILE
        accuracy = trainer.callback_metrics.get("test/accuracy")
        if not trainer.is_global_zero or not path.exists() or accuracy is None:
            return
        entry = json.loads(path.read_text(encoding="utf-8"))
        entry["train_info"]["metrics"][-1]["test accuracy"] = float(accuracy)
        entry["train_info"]["status"] = "success"
        entry["run_info"]["error_msg"] = ""
        entry["run_info"]["total_time"] += time.perf_counter() - self._clocks["all"]
        write_atomically(path, json.dumps(entry, indent=2) + "\n")

    def state_dict(self) -> dict[str, Any]:
        """Save the measurements for a resumed run."""
        return {name: getattr(self, name) for name in KEPT}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the measurements."""
        for name in KEPT:
            setattr(self, name, state_dict[name])


def _memory() -> tuple[int, int]:
    """Reserved and allocated bytes of the accelerator."""
    if not torch.cuda.is_available():
        return 0, 0
    return torch.cuda.memory_reserved(), torch.cuda.memory_allocated()


def _count_parameters(model: torch.nn.Module) -> tuple[int, int]:
    """Count all and the trainable parameters as PEFT does, without buffers."""
    parameters = list(model.parameters())
    return sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)


def _name(trainer: Trainer, task: Task) -> str:
    method = task.adapter.peft_type.lower() if task.adapter else "full-finetuning"
    return f"{method}/{run_directory(trainer).parent.name}"


def _train_config(trainer: Trainer, task: Task) -> dict[str, Any]:
    data = complete(trainer.datamodule)  # type: ignore[attr-defined]
    backbone, encoding, optimizer = task.backbone, data.encoding, task.spec.optimizer
    assert task.spec.training is not None
    return {
        "model_id": backbone.path,
        "dtype": backbone.dtype,
        "max_seq_length": encoding.max_length if encoding else None,
        # Null where batches have a budget of tokens.
        "batch_size": None if data.tokens_per_batch else data.batch_size,
        "batch_size_eval": data.eval_batch_size,
        "max_steps": trainer.max_steps,
        "eval_steps": trainer.val_check_interval,
        "compile": backbone.compile,
        "use_gc": backbone.gradient_checkpointing,
        "query_template": encoding.template if encoding else None,
        "seed": task.spec.training["seed"],
        "grad_norm_clip": trainer.gradient_clip_val,
        "optimizer_type": optimizer["class"],
        "optimizer_kwargs": {k: v for k, v in optimizer.items() if k != "class"},
        "lr_scheduler": task.schedule.name,
        "use_amp": "mixed" in str(trainer.precision),
        "autocast_adapter_dtype": False,
        "generation_kwargs": asdict(task.generation),
        "attn_implementation": attention_implementation(task.model.config),
        "init_kv_cache_prefix": None,
    }


def _peft_config(task: Task) -> dict[str, Any] | None:
    if task.adapter is None:
        return None
    config = task.model.peft_config["default"].to_dict()
    return {k: sorted(v) if isinstance(v, set) else v for k, v in config.items()}


def _file_size(folder: Path, model: torch.nn.Module) -> int:
    """Size of the adapter's file in bytes; of all weights without one, as PEFT counts it."""
    path = folder / "adapter" / "adapter_model.safetensors"
    if path.exists():
        return path.stat().st_size
    return sum(p.numel() * p.element_size() for p in model.parameters())


def _meta_info(trainer: Trainer, task: Task) -> dict[str, Any]:
    packages: dict[str, str | None] = {}
    for name in PACKAGES:
        packages[f"{name}-version"] = _version(name)
        packages[f"{name}-commit-hash"] = None
    cuda = torch.cuda.is_available()
    data = type(trainer.datamodule).__name__  # type: ignore[attr-defined]
    return {
        "model_info": {"sha": task.spec.backbone["commit"], "created_at": None},
        "dataset_info": {data: {"sha": None, "created_at": None}},
        "package_info": packages,
        "system_info": {
            "system": platform.system(),
            "release": platform.release(),
            "version": platform.version(),
            "machine": platform.machine(),
            "processor": platform.processor(),
            "accelerator": torch.cuda.get_device_name() if cuda else "none",
        },
        "pytorch_info": torch.__config__.show(),
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
