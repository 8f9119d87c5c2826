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

from tera_pl.checkpointing.atomic_writes import write_atomically
from tera_pl.checkpointing.run_directory import run_directory

FILE = "peft_comparison.json"
PACKAGES = ("transformers", "peft", "datasets", "bitsandbytes", "torch")
NOT_TESTED = "trained, not tested"
KEPT = ("_metrics", "_reserved", "_samples", "_tokens", "_train_seconds", "_recent")


class PeftComparison(Callback):
    """Write `peft_comparison.json` in the layout of PEFT's `method_comparison/MetaMathQA/results`.

    The verb `fit` writes it with status `canceled`, which PEFT's tables leave out; `test` in the
    same folder adds the test score and makes it `success`. Not measured, and null: `forgetting`,
    for which PEFT scores texts that are not part of a run, and hashes of data sets. Memory is that
    of the accelerator, 0 where there is none. The numbers compare with PEFT's only if model, data,
    steps and device do.

    Args:
        experiment_name: What PEFT calls the entry, `<method>/<name>`; from the adapter and the
            name of the run if not given.
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
        self._clocks = dict.fromkeys(("all", "fit", "step", "validation"), 0.0)

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Start the clock of the whole run."""
        self._clocks["all"] = time.perf_counter()
        self._started = datetime.datetime.now(datetime.UTC).replace(microsecond=0).isoformat()

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Start the clock of training."""
        self._clocks["fit"] = time.perf_counter()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock of a step."""
        self._clocks["step"] = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note what a step took."""
        if not outputs:  # its loss was not finite and is passed over
            return
        tokens = int(batch["attention_mask"].sum())
        reserved, allocated = _memory()
        seconds = time.perf_counter() - self._clocks["step"]
        self._reserved.append(reserved)
        self._samples += len(batch["attention_mask"])
        self._tokens += tokens
        self._train_seconds += seconds
        loss = float(outputs["loss"]) * trainer.accumulate_grad_batches
        self._recent.append(
            {
                "loss": loss,
                "tokens": tokens,
                "seconds": seconds,
                "reserved": reserved,
                "allocated": allocated,
            }
        )

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Start the clock of a validation."""
        self._clocks["validation"] = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Sum up the steps since the last validation."""
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
        total, trained = _numbers(pl_module.model)
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
        """Keep what a run that goes on has measured."""
        return {name: getattr(self, name) for name in KEPT}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it over."""
        for name in KEPT:
            setattr(self, name, state_dict[name])


def _memory() -> tuple[int, int]:
    """Bytes of the accelerator that are reserved and allocated."""
    if not torch.cuda.is_available():
        return 0, 0
    return torch.cuda.memory_reserved(), torch.cuda.memory_allocated()


def _numbers(model: torch.nn.Module) -> tuple[int, int]:
    """All and trained parameters, counted as PEFT does: buffers are not among them."""
    parameters = list(model.parameters())
    return sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)


def _name(trainer: Trainer, pl_module: Any) -> str:
    method = pl_module.adapter.peft_type.lower() if pl_module.adapter else "full-finetuning"
    return f"{method}/{run_directory(trainer).parent.name}"


def _train_config(trainer: Trainer, pl_module: Any) -> dict[str, Any]:
    backbone, data = pl_module.backbone, trainer.datamodule  # type: ignore[attr-defined]
    encoding = getattr(data, "encoding", None)
    optimizer = pl_module.spec["optimizer"]
    return {
        "model_id": backbone.path,
        "dtype": backbone.dtype,
        "max_seq_length": getattr(encoding, "max_length", None),
        # Null where batches have a budget of tokens.
        "batch_size": None
        if getattr(data, "tokens_per_batch", None)
        else getattr(data, "batch_size", None),
        "batch_size_eval": getattr(data, "eval_batch_size", None),
        "max_steps": trainer.max_steps,
        "eval_steps": trainer.val_check_interval,
        "compile": False,
        "use_gc": backbone.gradient_checkpointing,
        "query_template": getattr(encoding, "template", None),
        "seed": pl_module.spec["training"]["seed"],
        "grad_norm_clip": trainer.gradient_clip_val,
        "optimizer_type": optimizer["class"],
        "optimizer_kwargs": {k: v for k, v in optimizer.items() if k != "class"},
        "lr_scheduler": pl_module.schedule.name,
        "use_amp": "mixed" in str(trainer.precision),
        "autocast_adapter_dtype": False,
        "generation_kwargs": asdict(pl_module.generation),
        "attn_implementation": backbone.attn_implementation,
        "init_kv_cache_prefix": None,
    }


def _peft_config(pl_module: Any) -> dict[str, Any] | None:
    if pl_module.adapter is None:
        return None
    config = pl_module.model.peft_config["default"].to_dict()
    return {k: sorted(v) if isinstance(v, set) else v for k, v in config.items()}


def _file_size(folder: Path, model: torch.nn.Module) -> int:
    """Bytes of the adapter's file; of all weights where there is none, as PEFT has it."""
    path = folder / "adapter" / "adapter_model.safetensors"
    if path.exists():
        return path.stat().st_size
    return sum(p.numel() * p.element_size() for p in model.parameters())


def _meta_info(trainer: Trainer, pl_module: Any) -> dict[str, Any]:
    packages: dict[str, str | None] = {}
    for name in PACKAGES:
        packages[f"{name}-version"] = _version(name)
        packages[f"{name}-commit-hash"] = None
    cuda = torch.cuda.is_available()
    data = type(trainer.datamodule).__name__  # type: ignore[attr-defined]
    return {
        "model_info": {"sha": pl_module.spec["backbone"].get("commit"), "created_at": None},
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
