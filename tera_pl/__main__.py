"""Entry point of `python -m tera_pl`."""

import sys
from collections.abc import Callable, Sequence

from tera_pl.cli import guard
from tera_pl.cli import main as run_trainer
from tera_pl.commands import benchmark, estimate, export, learning_rates, report, study, theory

# What is no verb of the Trainer.
COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "benchmark": benchmark.main,
    "estimate": estimate.main,
    "export": export.main,
    "learning_rates": learning_rates.main,
    "report": report.main,
    "study": study.main,
    "theory": theory.main,
}


def main(args: Sequence[str]) -> int:
    """Run a verb of the Trainer or a command.

    Args:
        args: Command line arguments.

    Returns:
        0, or 2 after a mistake.
    """
    if args and args[0] in COMMANDS:
        return guard(lambda: COMMANDS[args[0]](args[1:]))
    return run_trainer()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
