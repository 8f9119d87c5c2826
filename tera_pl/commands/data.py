"""Subcommand `data`: show what a run would train on, without its model."""

import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from transformers import PreTrainedTokenizerBase

from tera_pl.cli import ConfigurationCLI, build, configure_output
from tera_pl.commands.arguments import Parser
from tera_pl.contracts import complete
from tera_pl.errors import UserError, is_user_error
from tera_pl.models.backbone import load_tokenizer
from tera_pl.reporting.data_summary import (
    CLOSE,
    OPEN,
    as_lines,
    count_batches,
    first_examples,
    has_colors,
    print_example,
)
from tera_pl.tasks import CausalLMTask


def main(args: Sequence[str]) -> int:
    """Run the command.

    Args:
        args: Its arguments; those that it does not define are passed to `fit`.

    Returns:
        0.

    Raises:
        UserError: If the configuration or the data are invalid.
    """
    parser = Parser(
        "data",
        epilog="Prints the examples that training sees first, with their supervised text in color, "
        "or in double brackets where there are no colors; how long examples are; and what is cut. "
        "All other options are those of fit: --config and overrides. Of the model only its "
        "tokenizer is read.",
    )
    parser.add_argument("--examples", type=int, default=3, help="how many (default: %(default)s)")
    options, rest = parser.parse_known_args(args)
    if options.examples < 0:
        raise UserError(f"--examples is {options.examples}: expected at least 0")
    # The table has what datamodules log.
    configure_output(quiet=True)
    cli = build(ConfigurationCLI, ["fit", *rest])
    data = cli.datamodule
    data.prepare_data()
    data.setup("fit")
    console = Console(highlight=False)
    for example in first_examples(data, _tokenizer(cli), options.examples):
        print_example(example, console)
        console.print()
    if options.examples and not has_colors(console):
        sys.stdout.write(f"supervised text is between {OPEN} and {CLOSE}\n\n")
    no_test = _set_up_test(data)
    statistics = complete(data).statistics() or count_batches(data)
    sys.stdout.write("\n".join([*as_lines(statistics), *no_test]) + "\n")
    return 0


def _tokenizer(cli: ConfigurationCLI) -> PreTrainedTokenizerBase:
    """Give the tokenizer of the data, or that of the backbone where the datamodule has none."""
    tokenizer = complete(cli.datamodule).tokenizer
    if tokenizer is not None:
        return tokenizer
    if not isinstance(cli.model, CausalLMTask):
        raise UserError(f"data: {type(cli.datamodule).__name__} has no tokenizer")
    return load_tokenizer(cli.model.backbone)


def _set_up_test(data: Any) -> list[str]:
    """Read the test data; where there is none, say why."""
    try:
        data.setup("test")
    except NotImplementedError:
        return ["test: there is none"]
    except Exception as error:
        if not is_user_error(error):
            raise
        return [f"test: {error}"]
    return []
