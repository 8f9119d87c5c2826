"""ConvAI2: dialogues with a persona (Dinan et al., 2019), asked as in HiRA (Huang et al., 2025)."""

import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from datamodules.base import InstructionDataModule
from datamodules.errors import UserError
from datamodules.files import find_file, read_text, split_lines
from datamodules.llm_adapters import make_id
from datamodules.records import Record, get_text
from datamodules.sources import Source, as_source, describe_source, read_rows

INSTRUCTION = (
    "Given the dialog history between Q and R is:\n{history}\n\n"
    "Given the personality of the R as: \n{persona}\n\n"
    "Please response to Q according to both the dialog history and the R's personality.\n"
    "Now, the R would say:"
)
TRAIN_FILES = ("train_self_original_no_cands.txt", "train.json", "train.json.gz")
# The public test split is what ParlAI calls valid.
TEST_FILES = ("valid_self_original_no_cands.txt", "test.json", "test.json.gz")
_PERSONA = re.compile(r"your persona:(.*)", re.DOTALL)


class ConvAI2(InstructionDataModule):
    """The next reply of a dialogue, given all turns before it and the persona of who replies.

    Args:
        tokenizer: Folder or Hub id; the command line takes the backbone's.
        path: Folder with the two files.
        train_file: Training file, relative to `path`: ParlAI's `*_self_original_no_cands.txt`, or
            JSON with `instruction` and `output`. If not given, `train_self_original_no_cands.txt`
            or `train.json`.
        test_file: Test file, in the same way; `valid_self_original_no_cands.txt` or `test.json`.
        train: Training data with columns `instruction` and `output`, from elsewhere: the id of a
            dataset on the Hub, with its revision, a file or a saved folder.
        test: Test data, in the same way.
        **settings: What every dataset has.
    """

    def __init__(
        self,
        tokenizer: str,
        path: str,
        train_file: str | None = None,
        test_file: str | None = None,
        train: str | Source | None = None,
        test: str | Source | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(tokenizer, **settings)
        self.path = Path(path)
        self.train_file = train_file
        self.test_file = test_file
        self.train, self.test = as_source(train), as_source(test)

    def train_records(self) -> list[Record]:
        """Read one record per turn."""
        return self._read(self.train, "train", self.train_file, TRAIN_FILES)

    def test_records(self) -> list[Record]:
        """Read one record per context; turns with equal contexts are references of one record."""
        merged: dict[str, Record] = {}
        for record in self._read(self.test, "test", self.test_file, TEST_FILES):
            known = merged.setdefault(record["prompt"], {**record, "reference": []})
            assert isinstance(known["reference"], list)
            known["reference"].append(record["response"])
        return list(merged.values())

    def describe_protocol(self) -> dict[str, Any]:
        """Add where data is from, if not from the folder."""
        test = {} if self.test is None else {"test": asdict(self.test)}
        return super().describe_protocol() | describe_source(self.train) | test

    def _read(
        self, source: Source | None, split: str, name: str | None, names: tuple[str, ...]
    ) -> list[Record]:
        if source is None:
            source = Source(str(find_file(self.path, names) if name is None else self.path / name))
        is_text = source.path.endswith(".txt")
        turns = _parse_dialogues(Path(source.path)) if is_text else _parse_rows(source, split)
        records = [
            Record(
                prompt=instruction,
                response=reply,
                task="convai2",
                reference=reply,
                choices=None,
                id=make_id(place, self.path),
            )
            for instruction, reply, place in turns
        ]
        if not records:
            raise UserError(f"{source.path} holds no turns")
        return records


def _parse_rows(source: Source, split: str) -> Iterator[tuple[str, str, str]]:
    for place, row in read_rows(source, split):
        yield get_text(row, "instruction", place), get_text(row, "output", place), place


def _parse_dialogues(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield instruction, reply and place of every turn of a file in ParlAI's format.

    A line is an integer, then either `your persona: ...` or what the partner said, a tab and the
    reply. The number starts again at 1 with every dialogue and counts its lines: where it jumps,
    lines are lost, and histories would be wrong. No published dialogue has a jump.
    """
    persona: list[str] = []
    history: list[str] = []
    previous = 0
    for number, line in enumerate(split_lines(read_text(path)), start=1):
        place = f"{path}, line {number}"
        match = re.fullmatch(r"([0-9]+) (.*)", line)
        if match is None:
            raise UserError(f"{place}: expected a number and a text, found {line[:60]!r}")
        if match.group(1) == "1":
            persona, history = [], []
        elif match.group(1) != str(previous + 1):
            raise UserError(
                f"{place}: the number {match.group(1)[:20]} follows {previous}: expected "
                f"{previous + 1}, or 1 for a new dialogue: are lines missing?"
            )
        previous = int(match.group(1))
        stated = _PERSONA.fullmatch(match.group(2))
        if stated and not history:
            persona.append(stated.group(1).strip())
            continue
        said, reply = _split_turn(match.group(2), place)
        if not persona:
            raise UserError(f"{place}: a turn before any 'your persona: ...' of its dialogue")
        history.append(f"Q: {said}")
        values = {"history": "\n".join(history), "persona": "\n".join(persona)}
        yield INSTRUCTION.format(**values), reply, place
        history.append(f"R: {reply}")


def _split_turn(text: str, place: str) -> tuple[str, str]:
    if text.startswith("partner's persona:"):
        raise UserError(f"{place}: a partner's persona: expected a file *_self_original_no_cands")
    said, *replies = text.split("\t")
    if len(replies) != 1:
        raise UserError(
            f"{place}: {len(replies)} tabs: expected what was said, a tab and the reply (a file "
            "*_no_cands has no candidates after them)"
        )
    if not said.strip() or not replies[0].strip():
        raise UserError(f"{place}: an empty utterance")
    return said.strip(), replies[0].strip()
