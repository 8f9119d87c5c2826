"""Math10k: word problems in the format of LLM-Adapters (Hu et al., 2023)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.utilities import rank_zero_warn

from datamodules.base import InstructionDataModule
from datamodules.errors import UserError
from datamodules.files import find_file
from datamodules.instructions import check_size, get_instruction, make_id
from datamodules.leaks import find_leaks
from datamodules.records import Record, get_text, read_json

Task = Literal["AQuA", "SVAMP", "gsm8k", "mawps", "AddSub", "MultiArith", "SingleEq"]
TASKS: tuple[Task, ...] = Task.__args__  # type: ignore[attr-defined]
LETTERS = ["A", "B", "C", "D", "E"]
# Published numbers of test records.
SIZES: dict[str, int] = {
    "AQuA": 254,
    "SVAMP": 1_000,
    "gsm8k": 1_319,
    "mawps": 238,
    "AddSub": 395,
    "MultiArith": 600,
    "SingleEq": 508,
}
NAMED_LEAKS = 5  # in the warning; results.json has them all


class Math10k(InstructionDataModule):
    """Problems answered by reasoning that ends in a number or, for AQuA, in an option's letter.

    The published test files hold the answers of a language model as `output`, most of AQuA's
    wrong, so the response of a test record is the bare answer.

    Args:
        tokenizer: Folder or Hub id; the command line takes the backbone's.
        path: Folder with `<task>/test.json` and the training file.
        tasks: Test sets. The paper reports AQuA and SVAMP.
        train_file: The training file, relative to `path`.
        leaks: What to do with training questions that occur in a test set in `path`: `report` their
            number, or `drop` them as well. The published `math_data.json` holds most of its own
            test questions; `math_10k.json` does not.
        **settings: What every benchmark has.
    """

    def __init__(
        self,
        tokenizer: str,
        path: str,
        tasks: list[Task] | None = None,
        train_file: str = "math_10k.json",
        leaks: Literal["report", "drop"] = "report",
        **settings: Any,
    ) -> None:
        super().__init__(tokenizer, **settings)
        self.path = Path(path)
        self.tasks: list[Task] = ["AQuA", "SVAMP"] if tasks is None else tasks
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise UserError(f"data.tasks is {self.tasks}: expected sub-tasks, each once")
        self.train_file = train_file
        self.leaks = leaks
        self.leaked: dict[str, str] = {}

    def train_records(self) -> list[Record]:
        """Read the training file and look for test questions in it."""
        path = self.path / self.train_file
        records = [
            self._record(item, f"{path}, record {number}", None)
            for number, item in enumerate(read_json(path))
        ]
        found = find_leaks(records, self._all_test_records())
        self.leaked = {records[index]["id"]: name for index, name in found.items()}
        if found:
            some = ", ".join(f"{a} is {b}" for a, b in list(self.leaked.items())[:NAMED_LEAKS])
            what = "dropped" if self.leaks == "drop" else "kept (data.leaks: drop drops them)"
            rank_zero_warn(
                f"{path}: {len(found)} of {len(records)} training questions occur in a test set, "
                f"{what}: {some}{', ...' if len(found) > NAMED_LEAKS else ''}"
            )
        if self.leaks == "drop":
            records = [record for index, record in enumerate(records) if index not in found]
        return records

    def test_records(self) -> list[Record]:
        """Read the test file of every task."""
        return [record for task in self.tasks for record in self._read_test(task)]

    def statistics(self) -> dict[str, Any]:
        """Count examples and tokens as for every benchmark, and name the leaks."""
        return super().statistics() | {"leaks": {"action": self.leaks, "found": self.leaked}}

    def _all_test_records(self) -> list[Record]:
        present = [task for task in TASKS if (self.path / task).is_dir()]
        return [record for task in present for record in self._read_test(task)]

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
