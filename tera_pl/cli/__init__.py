"""The command line: LightningCLI, its standard callbacks and one-line errors."""

from tera_pl.cli.entry_point import build, main
from tera_pl.cli.error_reporting import guard
from tera_pl.cli.libraries import configure_output
from tera_pl.cli.lightning_cli import ConfigurationCLI, TeraCLI

__all__ = ["ConfigurationCLI", "TeraCLI", "build", "configure_output", "guard", "main"]
