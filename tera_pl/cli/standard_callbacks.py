"""The callbacks that every run has, in the order in which Lightning calls them."""

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.cli import LightningArgumentParser

from tera_pl.callbacks import (
    BestAdapter,
    BestCheckpoint,
    Interruption,
    MatmulPrecision,
    PrecisionGuard,
    PredictionWriter,
    RankLogger,
    ResourceMonitor,
    ResultsWriter,
    RunOverview,
)

# By YAML key.
STANDARD_CALLBACKS: dict[str, type[Callback]] = {
    "precision_guard": PrecisionGuard,
    "matmul_precision": MatmulPrecision,
    "lr_monitor": LearningRateMonitor,
    "checkpoint": BestCheckpoint,
    # Before those that describe the weights of the best checkpoint, which it loads.
    "best_adapter": BestAdapter,
    "ranks": RankLogger,
    "predictions": PredictionWriter,
    "resources": ResourceMonitor,
    "results": ResultsWriter,
    "overview": RunOverview,
    # Last, so that the checkpoint it saves has what the others count of the step.
    "interruption": Interruption,
}
DEFAULTS = {
    "lr_monitor.logging_interval": "step",
    "checkpoint.filename": "best",
    "checkpoint.monitor": "val/loss",
    "checkpoint.mode": "min",
    "checkpoint.save_last": True,
    # Lightning's default depends on whether a validation has run, which differs between an
    # uninterrupted run and a resumed one.
    "checkpoint.save_on_train_epoch_end": False,
    "checkpoint.auto_insert_metric_name": False,
    "checkpoint.enable_version_counter": False,
}


def add_standard_callbacks(parser: LightningArgumentParser) -> None:
    """Add the options of the standard callbacks to a parser.

    Args:
        parser: The parser of a subcommand.
    """
    for key, callback in STANDARD_CALLBACKS.items():
        parser.add_lightning_class_args(callback, key)
    parser.set_defaults(DEFAULTS)
