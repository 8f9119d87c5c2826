"""Commonsense170k: eight sub-tasks in the format of LLM-Adapters (Hu et al., 2023)."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from datamodules.base import InstructionDataModule
from datamodules.cloze import PROMPTS, as_cloze
from datamodules.errors import UserError
from datamodules.files import find_file
from datamodules.llm_adapters import check_size, get_instruction, make_id
from datamodules.records import Record, get_text, read_json
from datamodules.sources import Source, as_source, describe_source, read_rows

Task = Literal[
    "boolq",
    "piqa",
    "social_i_qa",
    "hellaswag",
    "winogrande",
    "ARC-Easy",
    "ARC-Challenge",
    "openbookqa",
]
TASKS: tuple[Task, ...] = Task.__args__  # type: ignore[attr-defined]

_ANSWERS = [f"answer{i}" for i in range(1, 6)]
# The labels that the literature's scorer looks for, in its order. In the mixed file, which does not
# name the tasks, the labels identify them.
LABELS: dict[str, list[str]] = {
    "boolq": ["true", "false"],
    "piqa": ["solution1", "solution2"],
    "social_i_qa": _ANSWERS,
    "hellaswag": [f"ending{i}" for i in range(1, 5)],
    "winogrande": ["option1", "option2"],
    "ARC-Easy": _ANSWERS,
    "ARC-Challenge": _ANSWERS,
    "openbookqa": _ANSWERS,
}
_MIXED = "commonsense_170k.json"
MIXED_SIZE = 170_420
# Published counts of training records (their sum is that of the mixed file) and test records.
SIZES: dict[str, tuple[int, int]] = {
    "boolq": (9_427, 3_270),
    "piqa": (16_113, 1_838),
    "social_i_qa": (33_410, 1_954),
    "hellaswag": (39_905, 10_042),
    "winogrande": (63_238, 1_267),
    "ARC-Easy": (2_251, 2_376),
    "ARC-Challenge": (1_119, 1_172),
    "openbookqa": (4_957, 500),
}


class Commonsense170k(InstructionDataModule):
    """Eight multiple-choice sub-tasks, answered in words or by the likelihood of their options.

    Args:
        tokenizer: Folder or Hub id; the command line takes the backbone's.
        path: Folder with `<task>/train*.json` and `<task>/test.json`, compressed (`.gz`) or not.
            If `commonsense_170k.json` is in it, that is the training data. There, tasks that share
            the labels answer1 to answer5 cannot be distinguished and are called `answer`.
        tasks: Sub-tasks to train and test on; all eight if not given.
        form: `labels`, the published form, whose options are in the prompt and whose answers are
            sentences such as `the correct answer is answer2`; or `cloze`, in which each option
            continues the prompt, for `tera_pl.metrics.ChoiceLikelihood`. There is a cloze form of
            all sub-tasks but social_i_qa and hellaswag.
        train: Training data in the format of the mixed file, from elsewhere: the id of a dataset on
            the Hub, such as `zwhe99/commonsense_170k`, with its revision, a file or a saved folder.
        **settings: What every dataset has.
    """

    def __init__(
        self,
        tokenizer: str,
        path: str,
        tasks: list[Task] | None = None,
        form: Literal["labels", "cloze"] = "labels",
        train: str | Source | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(tokenizer, **settings)
        self.path = Path(path)
        self.tasks = list(TASKS if tasks is None else tasks)
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise UserError(f"data.tasks is {self.tasks}: expected sub-tasks, each once")
        self.form = form
        self.train = as_source(train)
        if form == "cloze" and not set(self.tasks) <= PROMPTS.keys():
            raise UserError(
                f"data.form is cloze: expected data.tasks among {', '.join(PROMPTS)}, the "
                "sub-tasks that have such a form"
            )

    def train_records(self) -> list[Record]:
        """Read the mixed training file, or the training file of every sub-task."""
        if self.train is None:
            self._check_folder()
        mixed = self.train or Source(str(self.path / _MIXED))
        if self.train is not None or Path(mixed.path).exists():
            if self.form == "cloze":
                raise UserError(
                    f"data.form is cloze, but {mixed.path} does not name the sub-tasks, whose "
                    "forms differ: expected a folder with <task>/train*.json instead"
                )
            records = self._read_mixed(mixed)
            wanted = {_family(LABELS[task]) for task in self.tasks}
            return [record for record in records if record["task"] in wanted]
        return self._read_all(("train*.json", "train*.json.gz"), 0)

    def test_records(self) -> list[Record]:
        """Read the test file of every sub-task."""
        self._check_folder()
        return self._read_all(("test.json", "test.json.gz"), 1)

    def _read_mixed(self, source: Source) -> list[Record]:
        rows = list(read_rows(source, "train"))
        check_size(source.path, len(rows), MIXED_SIZE)
        return [self._record(row, place, None) for place, row in rows]

    def _check_folder(self) -> None:
        if not self.path.is_dir():
            raise UserError(f"data.path: no folder {self.path}: expected one with <task>/test.json")

    def _read_all(self, names: tuple[str, ...], split: int) -> list[Record]:
        files = [(task, find_file(self.path / task, names)) for task in self.tasks]
        return [
            record for task, file in files for record in self._read(file, task, SIZES[task][split])
        ]

    def _read(self, path: Path, task: str, published: int) -> list[Record]:
        items = read_json(path)
        check_size(path, len(items), published)
        return [
            self._record(item, f"{path}, record {number}", task)
            for number, item in enumerate(items)
        ]

    def _record(self, item: Mapping[str, Any], place: str, task: str | None) -> Record:
        instruction = get_instruction(item, place)
        answer = get_text(item, "answer", place)
        labels = _labels(instruction, place) if task is None else LABELS[task]
        if answer not in labels:
            raise UserError(f"{place}: answer {answer!r} is none of {', '.join(labels)}")
        response = get_text(item, "output", place)
        _check_response(response, answer, labels, place)
        record: Record = {
            "prompt": instruction,
            "response": response,
            "task": task or _family(labels),
            "reference": answer,
            "choices": labels,
            "id": make_id(place, self.path),
        }
        return record if self.form == "labels" else as_cloze(record, place)

    def describe_protocol(self) -> dict[str, Any]:
        """Add the form of the records and the source of training data, where they are others."""
        form = {} if self.form == "labels" else {"form": self.form}
        return super().describe_protocol() | form | describe_source(self.train)


def _labels(instruction: str, place: str) -> list[str]:
    """Find the labels of a record in the line that ends its instruction."""
    match = re.search(r"Answer format: ([\w/]+)\s*$", instruction)
    first = match.group(1).split("/")[0] if match else None
    for labels in LABELS.values():
        if labels[0] == first:
            return labels
    raise UserError(
        f"{place}: field 'instruction' does not end in a known 'Answer format: ...', which "
        "names the sub-task"
    )


def _check_response(response: str, answer: str, labels: list[str], place: str) -> None:
    """Refuse a response that would be scored as wrong; no published file has one."""
    match = re.search("|".join(labels), response)
    if match is None:
        raise UserError(
            f"{place}: field 'output' holds no label, field 'answer' is {answer!r}: expected "
            f"an output such as 'the correct answer is {answer}'"
        )
    if match.group() != answer:
        raise UserError(
            f"{place}: field 'output' says {match.group()!r} (the first label in it is scored), "
            f"field 'answer' {answer!r}: correct the one that is wrong"
        )


def _family(labels: list[str]) -> str:
    """Name the sub-task that has these labels, or `answer` where several have."""
    tasks = [task for task, other in LABELS.items() if other == labels]
    return tasks[0] if len(tasks) == 1 else "answer"
