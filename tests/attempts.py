"""Try command lines up to the point where weights would be loaded, with one parser for all."""

from typing import Any

import torch
from jsonargparse import Namespace

from tera_pl.cli import TeraCLI, build, guard


class _Short:
    """Parses with the parser of a subcommand alone: the outer one would do all of it twice."""

    def __init__(self, parser: Any, subparsers: dict[str, Any]) -> None:
        self.parser = parser
        self.subparsers = subparsers

    def parse_args(self, args: list[str], **settings: Any) -> Namespace:
        """Parse the arguments of a subcommand."""
        name, *rest = args
        parsed = self.subparsers[name].parse_args(rest, **settings)
        return Namespace({"subcommand": name, name: parsed})

    def __getattr__(self, name: str) -> Any:
        return getattr(self.parser, name)


def share_parsers(patch: Any, *, short: bool = True) -> None:
    """Build the parser of each class of command lines once: it takes longer than most cases.

    Args:
        patch: pytest's fixture `monkeypatch`.
        short: Whether subcommands are parsed alone; then `--print_config` prints nothing.
    """
    made: dict[type, dict[str, Any]] = {}
    build = TeraCLI.setup_parser
    names = ("parser", "_subcommand_parsers", "_subcommand_method_arguments")

    def setup_parser(cli: TeraCLI, *args: Any) -> None:
        if type(cli) not in made:
            build(cli, *args)
            if short:
                cli.parser = _Short(cli.parser, cli._subcommand_parsers)
            made[type(cli)] = {name: getattr(cli, name) for name in names}
        vars(cli).update(made[type(cli)])

    patch.setattr(TeraCLI, "setup_parser", setup_parser)


class CheckingCLI(TeraCLI):
    """Builds task, datamodule and trainer, and the model on the meta device; runs nothing."""

    _parsers: dict[str, Any] | None = None

    def setup_parser(self, *args: Any) -> None:
        """Reuse the parsers: building them takes longer than everything else."""
        names = ("parser", "_subcommand_parsers", "_subcommand_method_arguments")
        if CheckingCLI._parsers is None:
            super().setup_parser(*args)
            self.parser = _Short(self.parser, self._subcommand_parsers)
            CheckingCLI._parsers = {name: getattr(self, name) for name in names}
        vars(self).update(CheckingCLI._parsers)

    def _dump_config(self) -> None:
        """Skip what `save_hyperparameters` would need."""
        self.config_dump: dict[str, Any] = {}

    def _run_subcommand(self, subcommand: str) -> None:
        """Do what the trainer does with the task before it loads weights."""
        self.model.prepare_data()
        self.model.setup(subcommand)


def attempt(args: list[str], capsys: Any) -> tuple[int, list[str], CheckingCLI | None]:
    """Try a command line.

    Args:
        args: Its arguments.
        capsys: pytest's fixture.

    Returns:
        Exit code, the lines on stderr that report errors, and the command line if it was built.
    """
    built: list[CheckingCLI] = []

    def run() -> int:
        built.append(build(CheckingCLI, args))
        return 0

    state = torch.get_rng_state()
    capsys.readouterr()
    try:
        code = guard(run)
    except SystemExit as error:
        code = error.code
    torch.set_rng_state(state)
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    return code, errors, built[0] if built else None
