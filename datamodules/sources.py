"""Rows from where users keep their data: files, saved folders, datasets on the Hub."""

import csv
import io
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow
from huggingface_hub import constants
from pyarrow import parquet

from datamodules.errors import MissingFileError, UserError
from datamodules.files import check_regular, read_text, record_digest
from datamodules.records import read_json

JSON = (".json", ".jsonl", ".json.gz", ".jsonl.gz")
TABLES = {".csv": ",", ".tsv": "\t"}
PARQUET = (".parquet",)
PATIENCE_S = 5
# The default of 131,072 characters is for all tables of this process, and less than a document.
csv.field_size_limit(2**31 - 1)
_SAVED = ("dataset_info.json", "dataset_dict.json")  # what `save_to_disk` leaves in a folder
_EXPECTED = (
    f"expected a file ({', '.join([*JSON, *TABLES, *PARQUET])}), a folder written by "
    "datasets' save_to_disk, or the id of a dataset on the Hub"
)


@dataclass(frozen=True)
class Source:
    """One source of records.

    Args:
        path: A file, a folder written by `datasets`' `save_to_disk`, or the id of a dataset on
            the Hub.
        weight: How often the source's training examples occur in an epoch: 2 repeats each, 0.5
            takes about half of them, chosen once.
        revision: Branch, tag or commit, for a dataset on the Hub. Pin a commit for a run that
            must be repeatable.
        split: Name of the split, for a folder with several or the Hub: `train` for training data
            and `test` for test data if not given.
        name: Name of the configuration, for a dataset on the Hub that has several.
    """

    path: str
    weight: float = 1.0
    revision: str | None = None
    split: str | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.weight < float("inf"):
            raise UserError(
                f"weight of {self.path} is {self.weight}: expected a finite number above 0"
            )


def as_source(given: "str | Source | None") -> "Source | None":
    """Give the source that a setting names, by its path alone or by all its settings."""
    return Source(given) if isinstance(given, str) else given


def describe_source(source: Source | None) -> dict[str, Any]:
    """Give the part of a protocol that says where training data is from, if it is elsewhere."""
    return {} if source is None else {"train": asdict(source)}


def read_rows(source: Source, split: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Read the rows of a source.

    Args:
        source: Where they are.
        split: Name of the split if the source gives none: `train` or `test`.

    Yields:
        The place of each row, for messages, and its values by column.

    Raises:
        UserError: If there is no such source, or it is damaged.
    """
    path, name = Path(source.path), source.path.lower()
    # One source may be given several times, each time another part of it.
    parts = [f"{key} {value}" for key in ("name", "split") if (value := getattr(source, key))]
    place = ", ".join([source.path, *parts])
    if "://" in source.path:
        raise UserError(f"{source.path} is an address on the web: download it and name the file")
    if path.is_dir():
        yield from _numbered(place, _read_saved(path, source.split or split))
    elif name.endswith(JSON):
        yield from _numbered(source.path, read_json(path))
    elif path.suffix.lower() in TABLES:
        yield from _read_table(path, TABLES[path.suffix.lower()])
    elif name.endswith(PARQUET):
        yield from _numbered(source.path, _read_parquet(path))
    elif path.exists() or _names_a_file(source.path):
        what = "a file of another kind" if path.exists() else "no such file"
        raise UserError(f"{source.path}: {what}: {_EXPECTED}")
    else:
        yield from _numbered(place, _read_hub(source, source.split or split))


def _names_a_file(path: str) -> bool:
    """Whether a text cannot be the id of a dataset, which is `name` or `owner/name`."""
    return (
        path.startswith((".", "/", "~"))
        or path.count("/") > 1
        or ("/" not in path and Path(path).suffix != "")
    )


def _numbered(
    path: str, rows: Iterator[Mapping[str, Any]] | list[Mapping[str, Any]]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, row in enumerate(rows):
        yield f"{path}, record {number}", row


def _read_table(path: Path, delimiter: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Read a table whose first line names the columns; every value is text, as it stands."""
    # Not `str.splitlines`, which splits at more characters than line feed and carriage return.
    text = io.StringIO(read_text(path), newline="")
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    columns: list[str] | None = None
    try:
        for row in reader:
            if columns is None:
                columns = row
                if len(set(columns)) < len(columns):
                    raise UserError(f"{path}, line 1: a column occurs twice: {', '.join(columns)}")
            elif row:
                place = f"{path}, line {reader.line_num}"
                if len(row) != len(columns):
                    raise UserError(
                        f"{place}: {len(row)} values: expected {len(columns)}, one for each of the "
                        f"columns {', '.join(columns)}; quote values that contain {delimiter!r}"
                    )
                yield place, dict(zip(columns, row, strict=True))
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}") from None


def _read_parquet(path: Path) -> list[Mapping[str, Any]]:
    try:
        check_regular(path)
        record_digest(path)
        return parquet.read_table(path).to_pylist()
    except FileNotFoundError as error:
        raise MissingFileError(f"cannot read {path}: {error.strerror}") from None
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{path} is not a readable Parquet file: {_first_line(error)}") from None


def _read_saved(path: Path, split: str) -> Iterator[Mapping[str, Any]]:
    if not any((path / name).is_file() for name in _SAVED):
        raise UserError(f"{path} is a folder without {' or '.join(_SAVED)}: {_EXPECTED}")
    try:
        saved = datasets.load_from_disk(str(path), keep_in_memory=True)
    except Exception as error:  # a damaged folder makes its readers raise anything
        raise UserError(f"{path} is not a readable dataset: {_first_line(error)}") from error
    if isinstance(saved, datasets.DatasetDict):
        if split not in saved:
            raise UserError(
                f"{path} has no split {split!r}: there are {', '.join(saved)}; give one as `split`"
            )
        saved, path = saved[split], path / split
    for file in sorted(path.glob("*.arrow")):
        record_digest(file)
    return iter(saved)


def _read_hub(source: Source, split: str) -> Iterator[Mapping[str, Any]]:
    revision = f" --revision {source.revision}" if source.revision else ""
    advice = (
        f"{_EXPECTED}. Without a network, download it before: "
        f"hf download --repo-type dataset {source.path}{revision}"
    )
    cached = Path(datasets.config.HF_DATASETS_CACHE) / source.path.replace("/", "___")
    if not cached.is_dir() and (reason := _why_unreachable()):
        raise UserError(f"{source.path}: no such file, not in the cache, and {reason}: {advice}")
    try:
        loaded = datasets.load_dataset(
            source.path, source.name, split=split, revision=source.revision
        )
    except Exception as error:  # a network fails in many ways
        raise UserError(
            f"{source.path}: no such file, and no dataset of that id can be loaded "
            f"({_first_line(error)}): {advice}"
        ) from error
    return iter(loaded)


def _why_unreachable() -> str | None:
    """Ask the Hub for an answer once: `datasets` itself would try for half a minute."""
    if constants.is_offline_mode():
        return "HF_HUB_OFFLINE is set"
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=PATIENCE_S).close()
    except urllib.error.HTTPError:
        return None  # an answer all the same
    except OSError as error:
        return f"{constants.ENDPOINT} does not answer ({getattr(error, 'reason', error)})"
    return None


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
