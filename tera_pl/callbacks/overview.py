"""Write the settings of a run to its loggers, and lay out TensorBoard."""

import re
from collections import defaultdict
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from tera_pl.adapters.tera import TeraLayer
from tera_pl.analysis.delta_weights import adapted_layers
from tera_pl.callbacks.logger_content import (
    Plain,
    log_histograms,
    log_settings,
    takes_histograms,
)
from tera_pl.callbacks.task import Task
from tera_pl.reporting.runs import flatten

RESOURCES = ("trained", "train_seconds", "peak_memory_bytes")


class RunOverview(Callback):
    """Write the settings and charts by which loggers compare runs.

    Every logger gets the settings of the run: in TensorBoard a row in the HPARAMS table, whose
    scores are the run's scalars. TensorBoard also gets a page of custom scalars with loss, scores
    and ranks. For TeRA, TensorBoard and W&B get histograms `vectors/<module>/<number>` of each
    scaling vector over all layers, after every validation.
    """

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Write settings and layout."""
        if not trainer.is_global_zero:
            return
        monitor = getattr(trainer.checkpoint_callback, "monitor", None) or "val/loss"
        values = {key: _plain(value) for key, value in _settings(pl_module).items()}
        log_settings(trainer.loggers, values, _score_names(pl_module, monitor))
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_custom_scalars(_layout(monitor))

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Write the histograms."""
        if trainer.sanity_checking or trainer.state.fn != "fit" or not trainer.is_global_zero:
            return
        if takes_histograms(trainer.loggers):
            log_histograms(trainer.loggers, _vectors(pl_module.model), trainer.global_step)


def _settings(task: Task) -> dict[str, Any]:
    """Settings by dotted name, without the hashes that identify weights.

    First come those by which runs differ most often: TensorBoard shows a table with many columns.
    """
    settings = flatten(
        {
            "adapter": task.spec.adapter or {},
            "optimizer": task.spec.optimizer,
            "schedule": task.spec.schedule,
            "training": task.spec.training or {},
        }
    )
    first = {
        "method": "full" if task.adapter is None else type(task.adapter).__name__,
        "optimizer.lr": settings.pop("optimizer.lr", None),
        "training.seed": settings.pop("training.seed", None),
        "backbone": task.backbone.path,
    }
    settings = first | settings
    return {name: value for name, value in settings.items() if not name.endswith("sha256")}


def _plain(value: Any) -> Plain:
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
