"""Help of the Trainer's subcommands, written for the command line."""

import importlib
import pkgutil
from collections.abc import Sequence
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.strategies import FSDPStrategy

from tera_pl.callbacks import LossTrend, ProgressLine, Terminal
from tera_pl.checkpointing.run_directory import RunConfig
from tera_pl.cli.standard_callbacks import STANDARD_CALLBACKS
from tera_pl.cli.trainer_settings import UNSUPPORTED
from tera_pl.distributed.strategy import ShardedStrategy
from tera_pl.private_api.jsonargparse import filter_listed_classes

DESCRIPTIONS = {
    "fit": "Train and validate a configuration; writes a run directory.",
    "validate": "Evaluate a checkpoint on the validation split.",
    "test": "Evaluate a checkpoint on the test split.",
    "predict": "Generate answers with a checkpoint.",
}
EPILOG = (
    "Options of a class: --model.help CLASS, --data.help CLASS, for example --model.help "
    "tera_pl.tasks.CausalLMTask or --data.help datamodules.MiniWorld. --quiet prints warnings, "
    "errors and the scores of validate and test only. --print_config shows what would run. "
    "docs/usage.md has examples."
)
TITLES = {
    "trainer": "Trainer (lightning.pytorch.Trainer)",
    "model": "Task: model, method, optimizer, generation",
    "data": "Data",
    "matmul_precision": "Precision of float32 matrix products on an accelerator",
    "lr_monitor": "Logging of the learning rate",
    "checkpoint": "Checkpoints (lightning.pytorch.callbacks.ModelCheckpoint)",
    "ranks": "Ranks of the weight updates",
    "predictions": "Generated answers",
}
# Classes that the help does not list, because no configuration names them: bases, callbacks that
# have keys of their own or that the program adds, and what it refuses.
BASES = {
    "datamodules.InstructionDataModule",
    "lightning.Callback",
    "lightning.LightningDataModule",
    "lightning.LightningModule",
    "lightning.pytorch.callbacks.BaseFinetuning",
    "lightning.pytorch.callbacks.BasePredictionWriter",
    "lightning.pytorch.callbacks.Checkpoint",
    "lightning.pytorch.callbacks.ProgressBar",
    "lightning.pytorch.cli.SaveConfigCallback",
    "lightning.pytorch.loggers.logger.DummyLogger",
    "tera_pl.callbacks.process_settings.ProcessSettings",
    "tera_pl.tasks.evaluation.EvaluationModule",
}
ADDED = {*STANDARD_CALLBACKS.values(), RunConfig, LossTrend, ProgressLine, Terminal}
REFUSED: tuple[type, ...] = (*UNSUPPORTED, FSDPStrategy, ShardedStrategy)
# Packages whose classes the help lists; a class is known once its package is imported.
CLASSES = ("tera_pl.tasks", "datamodules")


def parser_settings(subcommand: str) -> dict[str, Any]:
    """Give the settings of a subcommand's parser that concern its help.

    Args:
        subcommand: For example `fit`.

    Returns:
        Settings of `argparse.ArgumentParser`; the usage lists no options, of which there are many.
    """
    return {
        "usage": f"python -m tera_pl {subcommand} --config X.yaml [--ckpt_path C] [options]",
        "description": DESCRIPTIONS[subcommand],
        "epilog": EPILOG,
    }


def set_titles(parser: LightningArgumentParser) -> None:
    """Give groups of options titles of their own, and list only classes that fit.

    Args:
        parser: The parser of a subcommand.
    """
    for name, group in (parser.groups or {}).items():
        group.title = TITLES.get(name, group.title)
    filter_listed_classes(parser, _fits)


def _fits(path: str) -> bool:
    cls = pkgutil.resolve_name(path)
    return path not in BASES and cls not in ADDED and not issubclass(cls, REFUSED)


def import_listed_classes(args: Sequence[str]) -> None:
    """Import the classes that a help text lists, if one is asked for.

    Args:
        args: The command line.
    """
    if any(argument in {"-h", "--help"} or ".help" in argument for argument in args):
        for name in CLASSES:
            importlib.import_module(name)
