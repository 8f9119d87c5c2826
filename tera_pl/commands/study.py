"""Subcommand `study`."""

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from tera_pl.commands.arguments import Parser
from tera_pl.config.shipped import require_config
from tera_pl.errors import RunStoppedError, UserError
from tera_pl.studies.comparison import as_table, run_study, write_results
from tera_pl.studies.definition import read_study


def main(args: Sequence[str]) -> int:
    """Run a study, or resume one: finished runs are not repeated.

    Every run is a process of its own, `python -m tera_pl fit`, so that its peak memory is its own.
    A run belongs to the hash of its resolved settings and of the files they name: an edited entry
    has new runs in new folders, and the older ones stay.

    Args:
        args: Arguments of the command.

    Returns:
        0, or 128 plus the number of the signal that stopped the study.

    Raises:
        UserError: If the study file, an argument or the settings of an entry are invalid.
        RunStoppedError: If runs failed, after the others are finished and their table is written.
    """
    parser = Parser("study")
    parser.add_argument("--config", required=True, help="study file")
    parser.add_argument("--jobs", type=int, default=1, help="number of runs at the same time")
    parser.add_argument(
        "--shard",
        metavar="I/N",
        help="run every Nth row from the Ith on, so that N machines share a study; run the study "
        "once more without this option for the table",
    )
    options = parser.parse_args(args)
    path = require_config(options.config)
    study = read_study(path)
    if options.jobs < 1:
        raise UserError(f"--jobs is {options.jobs}: expected at least 1")
    names = _shard(list(study.entries), options.shard)
    result = run_study(study, names, path.parent, options.jobs)
    if result.stopped_by:
        command = shlex.join(["python", "-m", "tera_pl", "study", *args])
        sys.stderr.write(f"stopped: {result.stopped_by.name}; to resume: {command}\n")
        return 128 + result.stopped_by
    if options.shard is None:
        write_results(Path(study.output), result.rows)
    sys.stdout.write(as_table(result.rows))
    if result.failures:
        raise RunStoppedError(f"rows without a result: {'; '.join(result.failures)}")
    return 0


def _shard(names: list[str], shard: str | None) -> list[str]:
    if shard is None:
        return names
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    index, count = map(int, match.groups()) if match else (0, 0)
    if not 1 <= index <= count:
        raise UserError(f"--shard is {shard!r}: expected I/N with I from 1 to N, for example 1/4")
    return names[index - 1 :: count]
