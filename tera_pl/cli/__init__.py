"""The command line: LightningCLI, its standard callbacks and one-line errors."""

from tera_pl.cli.error_reporting import guard
from tera_pl.cli.lightning_cli import COMMANDS, ConfigurationCLI, TeraCLI, build, main

__all__ = ["COMMANDS", "ConfigurationCLI", "TeraCLI", "build", "guard", "main"]
