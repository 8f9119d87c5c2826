"""Math10k: word problems in the format of LLM-Adapters (Hu et al., 2023)."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.utilities import rank_zero_warn

from datamodules.base import InstructionDataModule
from datamodules.errors import UserError
from datamodules.files import find_file
from datamodules.llm_adapters import check_size, get_instruction, make_id
from datamodules.records import Record, get_text, read_json
from datamodules.sources import Source, as_source, describe_source, read_rows

Task = Literal["AQuA", "SVAMP", "gsm8k", "mawps", "AddSub", "MultiArith", "SingleEq"]
TASKS: tuple[Task, ...] = Task.__args__  # type: ignore[attr-defined]
LETTERS = ["A", "B", "C", "D", "E"]
# Published counts of test records.
SIZES: dict[str, int] = {
    "AQuA": 254,
    "SVAMP": 1_000,
    "gsm8k": 1_319,
    "mawps": 238,
    "AddSub": 395,
    "MultiArith": 600,
    "SingleEq": 508,
}
NAMED = 5  # records in a warning
LISTED = 100  # in results.json
TOLERANCE = 1e-3  # between numbers that count as equal, as in the literature's scorer


class Math10k(InstructionDataModule):
    """Problems answered by reasoning that ends in a number or, for AQuA, in an option's letter.

    The published test files have the answers of a language model as `output`, most of AQuA's
    wrong, so the response of a test record is the bare answer.

    Args:
        tokenizer: Folder or Hub id; the command line takes the backbone's.
        path: Folder with `<task>/test.json` and the training file.
        tasks: Test sets. The paper reports AQuA and SVAMP.
        train_file: The training file, relative to `path`.
        train: Training data in the format of the training file, from elsewhere: the id of a dataset
            on the Hub, with its revision, a file or a saved folder.
        **settings: What every dataset has. `leaks` looks at every test set in `path`: the
            published `math_data.json` has most of its own test questions; `math_10k.json` does
            not.
    """

    def __init__(
        self,
        tokenizer: str,
        path: str,
        tasks: list[Task] | None = None,
        train_file: str = "math_10k.json",
        train: str | Source | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(tokenizer, **settings)
        self.path = Path(path)
        self.tasks: list[Task] = ["AQuA", "SVAMP"] if tasks is None else tasks
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise UserError(f"data.tasks is {self.tasks}: expected sub-tasks, each once")
        self.train_file = train_file
        self.train = as_source(train)
        self._contradictions: dict[str, Any] = {}

    def train_records(self) -> list[Record]:
        """Read the training file, and count rationales that end in another answer."""
        source = self.train or Source(str(self.path / self.train_file))
        path = source.path
        records = [self._record(row, place, None) for place, row in read_rows(source, "train")]
        wrong = [record["id"] for record in records if _contradicts(record)]
        self._contradictions = {"found": len(wrong), "of": len(records), "first": wrong[:LISTED]}
        if wrong:
            rank_zero_warn(
                f"{path}: the output of {len(wrong):,} of {len(records):,} records ends in another "
                f"answer than their field 'answer', or in none; all are kept: "
                f"{', '.join(wrong[:NAMED])}{', ...' if len(wrong) > NAMED else ''}"
            )
        return records

    def test_records(self) -> list[Record]:
        """Read the test file of every task."""
        return [record for task in self.tasks for record in self._read_test(task)]

    def records_to_keep_out(self) -> list[Record]:
        """Read every test set in the folder, those that are not tested on too."""
        present = [task for task in TASKS if (self.path / task).is_dir()]
        return [record for task in present for record in self._read_test(task)]

    def statistics(self) -> dict[str, Any]:
        """Count as for every dataset, and training outputs that contradict their answers."""
        return super().statistics() | {"contradictions": self._contradictions}

    def describe_protocol(self) -> dict[str, Any]:
        """Add where training data is from, if not from the folder."""
        return super().describe_protocol() | describe_source(self.train)

    def _read_test(self, task: str) -> list[Record]:
        path = find_file(self.path / task, ("test.json", "test.json.gz"))
        items = read_json(path)
        check_size(path, len(items), SIZES[task])
        return [
            self._record(item, f"{path}, record {number}", task)
            for number, item in enumerate(items)
        ]

    def _record(self, item: Mapping[str, Any], place: str, task: str | None) -> Record:
        answer = get_text(item, "answer", place).strip()
        is_letter = answer in LETTERS
        if not is_letter and not _is_number(answer):
            raise UserError(
                f"{place}: answer {answer!r} is neither a number nor one of {', '.join(LETTERS)}"
            )
        return {
            "prompt": get_instruction(item, place),
            "response": get_text(item, "output", place) if task is None else answer,
            "task": task or ("letter" if is_letter else "number"),
            "reference": answer,
            "choices": LETTERS if is_letter else None,
            "id": make_id(place, self.path),
        }


def _is_number(text: str) -> bool:
    try:
        value = float(text.replace(",", ""))
    except ValueError:
        return False
    return abs(value) < float("inf")  # neither infinite nor NaN


def _contradicts(record: Record) -> bool:
    """Whether the last number, or letter of an option, in a response is not the answer."""
    response, answer = record["response"], str(record["reference"])
    if answer in LETTERS:
        return re.findall(r"\b[A-E]\b", response)[-1:] != [answer]
    numbers = re.findall(r"-?\d+\.?\d*", response.replace(",", ""))
    expected = float(answer.replace(",", ""))
    return not numbers or abs(float(numbers[-1]) - expected) > TOLERANCE
