"""Instructions of your own, from files, saved folders or the Hub, without any Python."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datamodules.base import InstructionDataModule
from datamodules.chat import check_messages
from datamodules.errors import UserError
from datamodules.records import Record
from datamodules.sources import Source, read_rows
from datamodules.splitting import Split, hold_out
from datamodules.templates import fields_of, fill


@dataclass(frozen=True)
class Columns:
    """Which columns of the data make a record.

    `prompt` and `response` are names of columns, or templates with names of columns in braces,
    for example `{question} Context: {context}`.

    Args:
        prompt: The instruction, not yet in `encoding.template`.
        response: The text to learn.
        reference: Column with what an answer is scored against, a text or a list of texts; the
            response if not given.
        choices: Column with the list of labels to choose from, for the metrics that need one.
        task: Column with the name of a record's sub-task, for scores by sub-task.
        messages: Instead of `prompt` and `response`: column with a dialogue, a list of
            `{role: system|user|assistant, content: text}` that ends with the assistant's turn. It
            needs `encoding.template: chat`.
    """

    prompt: str = "instruction"
    response: str = "output"
    reference: str | None = None
    choices: str | None = None
    task: str | None = None
    messages: str | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and not value.strip():
                raise UserError(f"data.columns.{name} is empty: expected the name of a column")
        fields_of(self.prompt, "data.columns.prompt")
        fields_of(self.response, "data.columns.response")


class Instructions(InstructionDataModule):
    """Prompts and responses from data of your own.

    Args:
        tokenizer: Folder or Hub id; the command line takes the backbone's.
        train: Training data: a file (`.json`, `.jsonl`, `.csv`, `.tsv`, `.parquet`; JSON also with
            `.gz`), a folder written by `datasets`' `save_to_disk`, the id of a dataset on the
            Hub, or a list of sources with weights.
        test: Test data, in the same forms. Without it `test_size` training records are held out.
        columns: Which columns make a record.
        test_size: How many records are held out for the test where there is no `test`: a tenth of
            them if not given, but at most 120.
        split: Which training records are held out for validation: a tenth, but at most 120, if not
            given.
        **settings: What every dataset has.
    """

    def __init__(
        self,
        tokenizer: str,
        train: str | list[Source],
        test: str | list[Source] | None = None,
        columns: Columns = Columns(),
        test_size: int | None = None,
        split: Split = Split(size=None),
        **settings: Any,
    ) -> None:
        super().__init__(tokenizer, split=split, **settings)
        if columns.messages is not None and not self.encoding.is_chat:
            raise UserError("data.columns.messages: expected data.encoding.template: chat")
        if test is not None and test_size is not None:
            raise UserError("data.test_size: data.test is given: expected one of the two")
        self.train_sources = _as_sources(train, "data.train")
        self.test_sources = None if test is None else _as_sources(test, "data.test")
        self.columns = columns
        self.test_size = test_size
        self._weights: dict[str, float] = {}
        self._train: tuple[list[Record], list[Record]] | None = None

    def train_records(self) -> list[Record]:
        """Read the training data, without what is held out for the test."""
        return self._read_train()[0]

    def test_records(self) -> list[Record]:
        """Read the test data, or what is held out for it."""
        if self.test_sources is None:
            return self._read_train()[1]
        return [r for source in self.test_sources for r in self._read(source, "test")]

    def split(self, records: Sequence[Record]) -> tuple[list[Record], list[Record]]:
        """Hold out the validation examples, then repeat or thin out the rest by weight."""
        train, val = super().split(records)
        weighted = [record for record in train for _ in range(self._copies(record))]
        if not weighted:
            raise UserError(
                f"data.train: the weights leave none of {len(train)} training examples: expected "
                "larger ones"
            )
        return weighted, val

    def describe_protocol(self) -> dict[str, Any]:
        """Add what makes records: columns, sources with their weights, the held-out test."""
        held_out = {"test_size": self.test_size} if self.test_sources is None else {}
        return super().describe_protocol() | {
            "columns": asdict(self.columns),
            "train": [asdict(source) for source in self.train_sources],
            **held_out,
        }

    def _read_train(self) -> tuple[list[Record], list[Record]]:
        if self._train is None:
            records: list[Record] = []
            for source in self.train_sources:
                found = self._read(source, "train")
                self._weights |= {record["id"]: source.weight for record in found}
                records += found
            if self.test_sources is not None:
                self._train = records, []
            else:
                self._train = hold_out(records, Split(size=self.test_size), "data.test_size")
        return self._train

    def _read(self, source: Source, split: str) -> list[Record]:
        records = [self._record(row, place) for place, row in read_rows(source, split)]
        if not records:
            raise UserError(f"{source.path} holds no records")
        return records

    def _record(self, row: Mapping[str, Any], place: str) -> Record:
        columns = self.columns
        messages = None
        if columns.messages is None:
            prompt = fill(columns.prompt, row, place)
            response = fill(columns.response, row, place)
        else:
            messages = check_messages(_value(row, columns.messages, place), place)
            # All turns: many dialogues end with the same question.
            prompt = "\n".join(turn["content"] for turn in messages[:-1])
            response = messages[-1]["content"]
        record = Record(
            prompt=prompt,
            response=response,
            task="instructions" if columns.task is None else fill(columns.task, row, place),
            reference=self._reference(row, response, place),
            choices=None if columns.choices is None else _texts(row, columns.choices, place),
            id=place,
        )
        return record if messages is None else record | {"messages": messages}

    def _reference(self, row: Mapping[str, Any], response: str, place: str) -> str | list[str]:
        column = self.columns.reference
        if column is None:
            return response
        if isinstance(row.get(column), list):
            return _texts(row, column, place)
        return fill(column, row, place)

    def _copies(self, record: Record) -> int:
        """How often a training example occurs in an epoch; the choice depends on its id alone."""
        weight = self._weights[record["id"]]
        draw = random.Random(f"{self.held_out.seed} {record['id']}").random()
        return int(weight) + (draw < weight % 1)


def _as_sources(given: str | list[Source], key: str) -> list[Source]:
    sources = [Source(given)] if isinstance(given, str) else given
    if not sources or not all(source.path.strip() for source in sources):
        raise UserError(
            f"{key}: expected a file, a folder, the id of a dataset, or a list of those"
        )
    paths = [source.path for source in sources]
    # However the path of a file is spelled.
    spelled = [str(Path(path).resolve()) if Path(path).exists() else path for path in paths]
    parts = zip(spelled, [(s.name, s.split, s.revision) for s in sources], strict=True)
    if len(set(parts)) < len(paths):
        raise UserError(f"{key}: a source occurs twice ({', '.join(paths)}): give it a weight")
    return sources


def _texts(row: Mapping[str, Any], column: str, place: str) -> list[str]:
    """Take a list of texts out of a row."""
    values = _value(row, column, place)
    is_list = isinstance(values, list) and bool(values)
    if not is_list or not all(isinstance(value, str) and value for value in values):
        raise UserError(f"{place}: column {column!r} is {values!r}: expected a list of texts")
    return values


def _value(row: Mapping[str, Any], column: str, place: str) -> Any:
    if column not in row:
        raise UserError(f"{place}: no column {column!r}: there are {', '.join(map(repr, row))}")
    return row[column]
