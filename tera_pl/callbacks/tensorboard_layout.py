"""Lay out a run in TensorBoard."""

import re
from collections import defaultdict
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor
from torch.utils.tensorboard.summary import hparams

from tera_pl.adapters.tera import TeraLayer
from tera_pl.analysis.delta_weights import adapted_layers
from tera_pl.callbacks.task import Task
from tera_pl.checkpointing.run_directory import tensorboard
from tera_pl.private_api.torch import add_summary
from tera_pl.reporting.runs import flatten

RESOURCES = ("trained", "train_seconds", "peak_memory_bytes")


class TensorBoardLayout(Callback):
    """Write the settings and charts by which TensorBoard compares runs.

    These are a row in the HPARAMS table with the settings of the run, whose scores are its
    scalars; a page of custom scalars with loss, scores and ranks; and, for TeRA, histograms
    `vectors/<module>/<number>` of each scaling vector over all layers, after every validation.
    Nothing is written without a TensorBoardLogger.
    """

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Write settings and layout."""
        if not trainer.is_global_zero:
            return
        monitor = getattr(trainer.checkpoint_callback, "monitor", None) or "val/loss"
        values = {key: _plain(value) for key, value in _settings(pl_module).items()}
        for writer in tensorboard(trainer):
            # Names only: TensorBoard shows the run's scalars of these names.
            names = dict.fromkeys(_score_names(pl_module, monitor), 0.0)
            for summary in hparams(values, names):  # type: ignore[no-untyped-call]
                add_summary(writer, summary)
            writer.add_custom_scalars(_layout(monitor))

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Write the histograms."""
        if trainer.sanity_checking or trainer.state.fn != "fit" or not trainer.is_global_zero:
            return
        writers = list(tensorboard(trainer))
        vectors = _vectors(pl_module.model) if writers else {}
        for writer in writers:
            for name, values in vectors.items():
                writer.add_histogram(name, values, global_step=trainer.global_step)


def _settings(task: Task) -> dict[str, Any]:
    """Settings by dotted name, without the hashes that identify weights."""
    settings = flatten(
        {
            "adapter": task.spec.adapter or {},
            "optimizer": task.spec.optimizer,
            "schedule": task.spec.schedule,
            "training": task.spec.training or {},
        }
    )
    settings["backbone"] = task.backbone.path
    return {name: value for name, value in settings.items() if not name.endswith("sha256")}


def _plain(value: Any) -> bool | int | float | str:
    return value if isinstance(value, bool | int | float | str) else str(value)


def _score_names(task: Task, monitor: str) -> list[str]:
    scores = [] if task.metric is None else task.metric.names()
    names = [monitor, "val/loss", "test/loss", *(f"test/{name}" for name in scores)]
    return list(dict.fromkeys([*names, *(f"resources/{name}" for name in RESOURCES)]))


def _layout(monitor: str) -> dict[str, dict[str, list[Any]]]:
    """Charts by category; a chart shows all tags that match its patterns."""
    charts: dict[str, list[Any]] = {
        "loss": ["Multiline", ["^train/loss$", "^val/loss$"]],
        "mean rank of the weight updates": ["Multiline", [r"^ranks/[^/]+/rank$"]],
        "mean stable rank of the weight updates": ["Multiline", [r"^ranks/[^/]+/stable_rank$"]],
    }
    if monitor != "val/loss":
        charts["validation score"] = ["Multiline", [f"^{re.escape(monitor)}$"]]
    return {"Overview": charts}


def _vectors(model: torch.nn.Module) -> dict[str, Tensor]:
    """Scaling vectors of TeRA, those of all layers concatenated, by module and position."""
    found: dict[str, list[Tensor]] = defaultdict(list)
    for name, layer in adapted_layers(model).items():
        if isinstance(layer, TeraLayer):
            module = name.rpartition(".")[2]
            vectors = layer.get_tensor_network("default").vectors
            for number, vector in enumerate(vectors, start=1):
                found[f"vectors/{module}/{number}"].append(vector.detach().float().cpu())
    return {name: torch.cat(some) for name, some in found.items()}
