"""Entry point of `python -m tera_pl` and of the console script `tera-pl`."""

import difflib
import importlib
import logging
import os
import sys
from collections.abc import Sequence

from tera_pl.commands import COMMANDS, TRAINER_COMMANDS

USAGE = "usage: python -m tera_pl <command> [options]"


def main(args: Sequence[str] | None = None) -> int:
    """Run a command.

    Nothing that takes long to import is imported before the command is known.

    Args:
        args: Command line arguments; those of the process if none are given.

    Returns:
        The exit code: 0, 2 after a user error, or 130 after Ctrl-C.
    """
    try:
        return _dispatch(list(sys.argv[1:] if args is None else args))
    except KeyboardInterrupt:  # while modules are imported: `guard` is not there yet
        if os.environ.get("TERA_PL_DEBUG"):
            raise
        sys.stderr.write("stopped: interrupted\n")
        return 130


def _dispatch(args: list[str]) -> int:
    # PEFT imports bitsandbytes, which then looks for kernels on the Hub and warns that it cannot.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    name = args[0] if args else None
    if name in {"-h", "--help"}:
        sys.stdout.write(list_commands())
        return 0
    if name is None:
        sys.stderr.write(list_commands())
        return 2
    # LightningCLI accepts `--config` before its subcommand.
    if name in TRAINER_COMMANDS or name.startswith("-"):
        from tera_pl.cli import main as run_trainer

        return run_trainer(args)
    if name in COMMANDS:
        return _run(name, args[1:])
    sys.stderr.write(f"error: unknown command {name!r}: {_suggest(name)} (see --help)\n")
    return 2


def list_commands() -> str:
    """List every command with its one-line description."""
    described = TRAINER_COMMANDS | COMMANDS
    width = max(map(len, described))
    lines = [f"  {name:<{width}}  {text}" for name, text in described.items()]
    more = "Options of a command: python -m tera_pl <command> --help"
    return "\n".join([USAGE, "", "commands:", *lines, "", more, ""])


def _run(name: str, args: Sequence[str]) -> int:
    from tera_pl.cli import configure_output, guard

    configure_output()

    # What a command imports may be missing.
    return guard(lambda: importlib.import_module(f"tera_pl.commands.{name}").main(args))


def _suggest(name: str) -> str:
    described = [*TRAINER_COMMANDS, *COMMANDS]
    near = difflib.get_close_matches(name, described)
    return f"did you mean {' or '.join(near)}?" if near else f"expected {', '.join(described)}"


if __name__ == "__main__":
    sys.exit(main())
