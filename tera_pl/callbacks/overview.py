"""Write the settings of a run to its loggers, and lay out TensorBoard."""

import re
from collections import defaultdict
from collections.abc import Sequence
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
    scores are the run's scalars. TensorBoard also gets a page of custom scalars with loss, score
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
        names = adapted_layers(pl_module.model)
        modules = sorted({name.rpartition(".")[2] for name in names})
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_custom_scalars(_layout(monitor, modules))

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Write the histograms."""
        if trainer.sanity_checking or trainer.state.fn != "fit" or not trainer.is_global_zero:
            return
        if takes_histograms(trainer.loggers):
            log_histograms(trainer.loggers, _vectors(pl_module.model), trainer.global_step)


def _settings(task: Task) -> dict[str, Any]:
    """Settings by dotted name, without the hashes that identify weights.

    TensorBoard sorts them by name, capital letters first, and shows five.
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
        "Backbone": task.backbone.path,
        "Learning rate": settings.get("optimizer.lr"),
        "Method": "full" if task.adapter is None else type(task.adapter).__name__,
        "Seed": settings.get("training.seed"),
    }
    settings = first | {k: v for k, v in settings.items() if not k.endswith("sha256")}
    return {name: value for name, value in settings.items() if value is not None}


def _plain(value: Any) -> Plain:
    return value if isinstance(value, bool | int | float | str) else str(value)


def _score_names(task: Task, monitor: str) -> list[str]:
    scores = [] if task.metric is None else task.metric.names()
    names = [monitor, "val/loss", "test/loss", *(f"test/{name}" for name in scores)]
    return list(dict.fromkeys([*names, *(f"resources/{name}" for name in RESOURCES)]))


def _layout(monitor: str, modules: Sequence[str]) -> dict[str, dict[str, list[Any]]]:
    """Charts by category; a chart shows all tags that match its patterns.

    The lines of a run have one color, so every module has its own charts.
    """
    charts: dict[str, list[Any]] = {"loss": ["Multiline", ["^train/loss$", "^val/loss$"]]}
    if monitor != "val/loss":
        charts["validation score"] = ["Multiline", [f"^{re.escape(monitor)}$"]]
    ranks = {
        f"{kind.replace('_', ' ')} of {module}": [
            "Multiline",
            [f"^ranks/{re.escape(module)}/{kind}$"],
        ]
        for module in modules
        for kind in ("rank", "stable_rank")
    }
    pages = {"Overview": charts}
    return pages | {"Weight updates, mean over layers": ranks} if ranks else pages


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
