"""Help of the Trainer's subcommands, written for the command line."""

import importlib
from collections.abc import Sequence
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser

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
    """Give the groups of options titles instead of the first lines of docstrings.

    Args:
        parser: The parser of a subcommand.
    """
    for name, group in (parser.groups or {}).items():
        group.title = TITLES.get(name, group.title)


def import_listed_classes(args: Sequence[str]) -> None:
    """Import the classes that a help text lists, if one is asked for.

    Args:
        args: The command line.
    """
    if any(argument in {"-h", "--help"} or ".help" in argument for argument in args):
        for name in CLASSES:
            importlib.import_module(name)
