"""Entry point of the Trainer's subcommands: global settings of the libraries, then the CLI."""

import os
import sys
from typing import Any, TypeVar

from jsonargparse import set_parsing_settings
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import ArgsType
from peft import PeftConfig
from transformers.utils.quantization_config import QuantizationConfigMixin

from tera_pl import adapters  # noqa: F401 - registers its methods with PEFT
from tera_pl.checkpointing.run_directory import RunConfig
from tera_pl.cli.error_reporting import guard
from tera_pl.cli.help_texts import import_listed_classes, parser_settings
from tera_pl.cli.libraries import configure_output
from tera_pl.cli.lightning_cli import TeraCLI
from tera_pl.cli.parsing_errors import Parser

QUIET = "--quiet"
CLI = TypeVar("CLI", bound=TeraCLI)


def main(args: ArgsType = None) -> int:
    """Run a subcommand of the Trainer.

    Args:
        args: Command line arguments; those of the process if none are given.

    Returns:
        The exit code: 0, or that of `guard` after an error.
    """
    if args is None or isinstance(args, list):
        args = list(sys.argv[1:] if args is None else args)
    # Not an option of the parser: a configuration that is saved does not say what is printed.
    quiet = isinstance(args, list) and QUIET in args
    if isinstance(args, list):
        args = [argument for argument in args if argument != QUIET]
    configure_output(quiet=quiet, progress=os.environ.get("LOCAL_RANK", "0") == "0")

    def run() -> int:
        build(_QuietCLI if quiet else TeraCLI, args)
        return 0

    return guard(run)


class _QuietCLI(TeraCLI):
    """Prints warnings, errors and the scores of `validate` and `test`."""

    quiet = True


def build(cli: type[CLI], args: ArgsType = None) -> CLI:
    """Build a command line, which runs the subcommand that its arguments name.

    Args:
        cli: Class of the command line.
        args: Command line arguments; those of the process if none are given.

    Returns:
        The command line, after the run.
    """
    _configure_libraries()
    if isinstance(args, list):
        import_listed_classes(args)
    # Abbreviated options are typing errors: they would change meaning when an option is added.
    strict: dict[str, Any] = {"allow_abbrev": False}
    return cli(
        LightningModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        seed_everything_default=0,
        parser_class=Parser,
        save_config_callback=RunConfig,
        # The header of `Terminal` says what a person needs of it.
        trainer_defaults={"enable_model_summary": False},
        parser_kwargs=strict
        | {"prog": "python -m tera_pl"}
        | {name: strict | parser_settings(name) for name in cli.subcommands()},
        args=list(sys.argv[1:]) if args is None else args,
    )


def _configure_libraries() -> None:
    """Set what jsonargparse keeps per process; a second call changes nothing."""
    set_parsing_settings(
        # jsonargparse accepts subclasses of a dataclass, here for `adapter` and `quantization`,
        # only if listed.
        subclasses_enabled=[PeftConfig, QuantizationConfigMixin],
        # Where any value is accepted, a mapping with `class_path` stays a mapping.
        instantiate_subclass_spec_in_any=False,
        # An empty list enforces jsonargparse's own: os, subprocess, builtins.exec and the like.
        import_path_denylist=[],
    )
