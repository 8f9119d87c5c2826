"""Write figures, tables, histograms and settings to every logger that can take them.

Scalars need no help: `Logger.log_metrics` takes them everywhere. Lightning has no common method for
anything else, so each kind of logger has its own here; one that is not listed gets scalars and
settings.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from torch import Tensor
from torch.utils.tensorboard.summary import hparams

from tera_pl.private_api.torch import add_summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Plain = bool | int | float | str
# What MLflow refuses: more settings in a call, and these characters in a name.
_MLFLOW_BATCH = 100
_MLFLOW_REFUSED = re.compile(r"[^\w./ :-]")


def log_figure(loggers: Iterable[Logger], name: str, figure: "Figure", step: int) -> None:
    """Write a figure to TensorBoard, W&B and MLflow.

    Args:
        loggers: The loggers of a run.
        name: Name of the figure, with slashes.
        figure: The figure.
        step: Step of training.
    """
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_figure(name, figure, global_step=step)
        elif isinstance(logger, WandbLogger):
            logger.log_image(name, [figure], step)
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_figure(logger.run_id, figure, f"{name}/{step}.png")


def log_table(
    loggers: Iterable[Logger], name: str, rows: Sequence[Mapping[str, str]], text: str, step: int
) -> None:
    """Write rows as a text to TensorBoard and MLflow, and as a table to W&B.

    Args:
        loggers: The loggers of a run.
        name: Name of the table, with slashes.
        rows: Cells by column; all have the same columns.
        text: The same in Markdown.
        step: Step of training.
    """
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text(name, text, global_step=step)
        elif isinstance(logger, WandbLogger):
            logger.log_text(name, list(rows[0]), [list(row.values()) for row in rows], step=step)
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_text(logger.run_id, text, f"{name}/{step}.md")


def log_histograms(loggers: Iterable[Logger], values: Mapping[str, Tensor], step: int) -> None:
    """Write histograms to TensorBoard and W&B.

    Args:
        loggers: The loggers of a run.
        values: Values on the CPU, by name of the histogram.
        step: Step of training.
    """
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            for name, tensor in values.items():
                logger.experiment.add_histogram(name, tensor, global_step=step)
        elif isinstance(logger, WandbLogger):
            from wandb import Histogram

            found: dict[str, Any] = {k: Histogram(v.tolist()) for k, v in values.items()}
            logger.log_metrics(found, step)


def takes_histograms(loggers: Iterable[Logger]) -> bool:
    """Whether `log_histograms` writes anything."""
    return any(isinstance(logger, TensorBoardLogger | WandbLogger) for logger in loggers)


def log_settings(
    loggers: Iterable[Logger], settings: Mapping[str, Plain], scores: Sequence[str]
) -> None:
    """Write settings to every logger.

    Args:
        loggers: The loggers of a run.
        settings: Settings by name.
        scores: Names of the scalars that TensorBoard shows beside them.
    """
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            # Names only: TensorBoard shows the run's scalars of these names.
            names = dict.fromkeys(scores, 0.0)
            for summary in hparams(dict(settings), names):  # type: ignore[no-untyped-call]
                add_summary(logger.experiment, summary)
        elif isinstance(logger, MLFlowLogger):
            _log_to_mlflow(logger, settings)
        else:
            logger.log_hyperparams(dict(settings))


def _log_to_mlflow(logger: MLFlowLogger, settings: Mapping[str, Plain]) -> None:
    """Write settings that the run does not have: MLflow refuses a changed one.

    `MLFlowLogger.log_hyperparams` would cut values off after 250 characters.
    """
    from mlflow.entities import Param

    known = logger.experiment.get_run(logger.run_id).data.params
    named = {_MLFLOW_REFUSED.sub("_", name): str(value) for name, value in settings.items()}
    new = [Param(name, value) for name, value in named.items() if name not in known]
    for start in range(0, len(new), _MLFLOW_BATCH):
        logger.experiment.log_batch(logger.run_id, params=new[start : start + _MLFLOW_BATCH])
