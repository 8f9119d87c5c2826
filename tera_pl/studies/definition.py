"""Read and validate a study file."""

import difflib
import itertools
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from tera_pl.config.yaml_files import read_yaml
from tera_pl.errors import UserError
from tera_pl.studies.checks import flag, integer_from, is_number, list_of, number, text

LEARNING_RATE = "model.init_args.optimizer.init_args.lr"
SEED = "seed_everything"
# Set by the study for each of its runs.
SET_BY_STUDY = (LEARNING_RATE, SEED, "trainer.logger", "trainer.default_root_dir", "ckpt_path")
# In the output folder, beside the folders of the rows.
TABLE, ROWS = "table.md", "study.json"
LONGEST_NAME = 200  # bytes; file systems allow 255
_NAME = re.compile(r"\w([\w .,=+()-]*[\w.,=+()-])?")


@dataclass(frozen=True)
class Entry:
    """One row of a comparison, or a grid of rows.

    Args:
        config: Its configuration, relative to the study file.
        set: Values to override, by dotted key.
        grid: Lists of values by dotted key: every combination is a row of its own, whose name
            ends in the values.
        seed_keys: Dotted keys that are set to the seed besides `seed_everything`.
        learning_rates: Learning rates to search instead of those of the study.
        learning_rate: Range to search instead of that of the study's `search`.
    """

    config: str
    set: dict[str, Any] = field(default_factory=dict)
    grid: dict[str, list[Any]] = field(default_factory=dict)
    seed_keys: list[str] = field(default_factory=list)
    learning_rates: list[float] | None = None
    learning_rate: list[float] | None = None


@dataclass(frozen=True)
class Range:
    """The values between two numbers: integers if both are, else real.

    Args:
        low: The smallest.
        high: The largest.
        log: Whether to draw their logarithms evenly.
    """

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Search:
    """A search by Optuna, the same for every row, instead of the grid of learning rates.

    Args:
        trials: Number of trials of each row, pruned ones included.
        learning_rate: The smallest and the largest learning rate, drawn by their logarithms.
        space: Further settings by dotted key: a list of choices or a `Range`.
        startup_trials: Number of trials that are drawn at random, and of finished ones before any
            is pruned.
        pruning: Whether to stop a trial whose best `val/loss` so far is above the median of the
            earlier trials at the same step.
    """

    trials: int
    learning_rate: list[float]
    space: dict[str, list[Any] | Range] = field(default_factory=dict)
    startup_trials: int = 5
    pruning: bool = True


@dataclass(frozen=True)
class Study:
    """A comparison.

    Args:
        output: Folder of its runs.
        entries: The rows by name.
        seeds: Seeds of the runs with the best learning rate.
        learning_rates: Learning rates to search for each row, with the first seed.
        score: Name of the test score in the table.
        search: A search by Optuna instead of `learning_rates`, or None.
    """

    output: str
    entries: dict[str, Entry]
    seeds: list[int]
    learning_rates: list[float] = field(default_factory=list)
    score: str = "accuracy"
    search: Search | None = None


def read_study(path: Path) -> Study:
    """Read a study file.

    Args:
        path: A YAML file with the fields of `Study`.

    Returns:
        The study, its entries expanded to one row for each combination of their grids.

    Raises:
        UserError: If the file is missing, or a key or value in it is invalid.
    """
    study = _build(Study, read_yaml(path), path, "")
    _check_search(study, path)
    rows: dict[str, Entry] = {}
    for name, entry in study.entries.items():
        new = _expand(name, entry, path)
        if repeated := rows.keys() & new.keys():
            raise UserError(f"{path}: two rows are {min(repeated)!r}: rename an entry")
        rows |= new
    return replace(study, entries=rows)


def _check_search(study: Study, path: Path) -> None:
    """Refuse a study with two ways to search, or none."""
    search = study.search
    unused = "learning_rate" if search is None else "learning_rates"
    for name, entry in study.entries.items():
        if getattr(entry, unused) is not None:
            raise UserError(
                f"{path}: entries.{name}.{unused} has no effect: expected it "
                f"{'with' if search is None else 'without'} search"
            )
        if search and (twice := search.space.keys() & {*entry.set, *entry.grid, *entry.seed_keys}):
            raise UserError(
                f"{path}: search.space: entries.{name} sets {min(twice)} too: remove one of them"
            )
    if search is not None and study.learning_rates:
        raise UserError(f"{path}: learning_rates and search exclude each other: remove one")
    if search is None and not study.learning_rates:
        raise UserError(f"{path}: learning_rates is missing: expected it, or search")


def _build(kind: type, content: Any, path: Path, where: str) -> Any:
    """Build a dataclass from a mapping and check every key and value."""
    prefix = f"{where}." if where else ""
    known = {f.name: f for f in fields(kind)}
    if not isinstance(content, Mapping):
        raise UserError(
            f"{path}: {where} is {content!r}: expected a mapping with the key {next(iter(known))}"
        )
    for key in content:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise UserError(f"{path}: {prefix}{key} is unknown: {hint}expected {', '.join(known)}")
    values = {}
    for name, known_field in known.items():
        if name in content:
            values[name] = _CHECKS[name](content[name], path, f"{prefix}{name}")
        elif known_field.default is MISSING and known_field.default_factory is MISSING:
            raise UserError(f"{path}: {prefix}{name} is missing: expected {', '.join(known)}")
    return kind(**values)


def _output(value: Any, path: Path, name: str) -> str:
    output = Path(text(value, path, name)).resolve()
    if output in {Path.cwd(), *Path.cwd().parents}:
        raise UserError(
            f"{path}: {name} is {value!r}, the current folder or one above it: name a new folder"
        )
    return str(value)


def _config(value: Any, path: Path, name: str) -> str:
    config = path.parent / text(value, path, name)
    if not config.is_file():
        raise UserError(f"{path}: {name}: no file {config}")
    return str(value)


def _entries(value: Any, path: Path, name: str) -> dict[str, Entry]:
    if not isinstance(value, Mapping) or not value:
        raise UserError(f"{path}: {name} is {value!r}: expected a mapping of entries by name")
    for entry in value:
        _check_name(entry, path)
    return {key: _build(Entry, content, path, f"{name}.{key}") for key, content in value.items()}


def _check_name(name: Any, path: Path) -> None:
    """Accept plain names only: each is the name of a folder in the study's output."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in {TABLE, ROWS}:
        raise UserError(
            f"{path}: entries: {name!r} is an invalid name: expected letters, digits, spaces and "
            "any of _ . , = + ( ) -, starting with a letter or digit"
        )
    if len(name.encode()) > LONGEST_NAME:
        raise UserError(f"{path}: entries: {name[:40]}... is longer than {LONGEST_NAME} bytes")


def _settings(value: Any, path: Path, name: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise UserError(f"{path}: {name} is {value!r}: expected values by dotted keys")
    for key in value:
        _check_key(key, path, name)
    return dict(value)


def _grid(value: Any, path: Path, name: str) -> dict[str, list[Any]]:
    settings = _settings(value, path, name)
    for key, choices in settings.items():
        if not isinstance(choices, list) or not choices:
            raise UserError(f"{path}: {name}: {key} is {choices!r}: expected a list of values")
    return settings


def _keys(value: Any, path: Path, name: str) -> list[str]:
    if not isinstance(value, list):
        raise UserError(f"{path}: {name} is {value!r}: expected a list of dotted keys")
    for key in value:
        _check_key(key, path, name)
    return value


def _check_key(key: Any, path: Path, name: str) -> None:
    if not isinstance(key, str) or not re.fullmatch(r"\w+(\.\w+)*", key):
        raise UserError(f"{path}: {name}: {key!r}: expected a dotted key, as model.init_args.x")
    if any(key == mine or key.startswith(f"{mine}.") for mine in SET_BY_STUDY):
        raise UserError(
            f"{path}: {name}: {key} is set by the study for each of its runs: remove it"
        )


def _search(value: Any, path: Path, name: str) -> Search | None:
    return None if value is None else _build(Search, value, path, name)


def _space(value: Any, path: Path, name: str) -> dict[str, list[Any] | Range]:
    """Read the dimensions of a search: lists of choices, and ranges."""
    space: dict[str, list[Any] | Range] = {}
    for key, content in _settings(value, path, name).items():
        where = f"{name}: {key}"
        if isinstance(content, Mapping):
            space[key] = found = _build(Range, content, path, where)
            if not found.low < found.high or (found.log and found.low <= 0):
                raise UserError(
                    f"{path}: {where} is {content!r}: expected low below high, and above 0 with log"
                )
        elif isinstance(content, list) and len(content) > 1:
            space[key] = content
        else:
            raise UserError(
                f"{path}: {where} is {content!r}: expected a list of choices, or low and high"
            )
    return space


def _rate_range(value: Any, path: Path, name: str) -> list[float] | None:
    if value is None and name.startswith("entries."):
        return None
    rates = _RATES(value, path, name)
    if len(rates) != 2 or not rates[0] < rates[1]:
        raise UserError(f"{path}: {name} is {value!r}: expected the smallest and the largest rate")
    return rates


_RATES = list_of(lambda x: is_number(x) and x > 0, "positive numbers")
_CHECKS: dict[str, Callable[[Any, Path, str], Any]] = {
    "output": _output,
    "entries": _entries,
    "learning_rates": lambda value, path, name: (
        None if value is None and name.startswith("entries.") else _RATES(value, path, name)
    ),
    "seeds": list_of(
        lambda x: isinstance(x, int) and 0 <= x < 2**32, "integers from 0 to 2^32 - 1"
    ),
    "score": text,
    "config": _config,
    "set": _settings,
    "grid": _grid,
    "seed_keys": _keys,
    "search": _search,
    "trials": integer_from(1),
    "learning_rate": _rate_range,
    "space": _space,
    "startup_trials": integer_from(1),
    "pruning": flag,
    "low": number,
    "high": number,
    "log": flag,
}


def _expand(name: str, entry: Entry, path: Path) -> dict[str, Entry]:
    """Return the rows of an entry: one for each combination of its grid."""
    rows: dict[str, Entry] = {}
    for values in itertools.product(*entry.grid.values()):
        chosen = dict(zip(entry.grid, values, strict=True))
        parts = (f"{key.rpartition('.')[2]}={_format(value)}" for key, value in chosen.items())
        row = " ".join([name, *parts])
        if row in rows:
            raise UserError(
                f"{path}: entries.{name}.grid: two rows are {row!r}: expected different names"
            )
        _check_name(row, path)
        rows[row] = replace(entry, set=entry.set | chosen, grid={})
    return rows


def _format(value: Any) -> str:
    """Format a value as a part of a folder's name."""
    return re.sub(r"[^\w.,=+-]+", "", json.dumps(value).replace(":", "="))
