"""Base class of accuracies: extract an answer, compare it, average by task."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tera_pl.metrics.rows import RowMetric

Record = Mapping[str, Any]
_NAME_BYTES = 64


class AnswerAccuracy(RowMetric):
    """Fraction of correct answers, overall and by task.

    A subclass defines how an answer is extracted, as the literature does and by strict rules, and
    when it is correct. `compute` returns `accuracy` (mean over examples), `accuracy_strict` (by the
    strict rules), `accuracy_average` (mean over tasks, the paper's average), `extracted` (fraction
    of examples in which the literature's rules find an answer) and `accuracy/<task>` and
    `accuracy_strict/<task>`; all in `[0, 1]`.
    """

    outcomes: list[Tensor]
    tasks: list[Tensor]

    def __init__(self) -> None:
        # Rows of (correct, correct_strict, extracted), and the task's name as padded bytes: plain
        # tensors, which processes exchange without knowing the tasks of the others.
        super().__init__(
            outcomes=torch.zeros(0, 3, dtype=torch.long),
            tasks=torch.zeros(0, _NAME_BYTES, dtype=torch.long),
        )

    @staticmethod
    def names() -> list[str]:
        """List the scores that are always computed."""
        return ["accuracy", "accuracy_strict", "accuracy_average", "extracted"]

    @staticmethod
    def extract(output: str, record: Record, strict: bool) -> Any:
        """Extract the answer from a text, or return None."""
        raise NotImplementedError

    @classmethod
    def is_right(cls, found: Any, record: Record) -> bool:
        """Check whether an extracted answer is correct."""
        return bool(found == record["reference"])

    @classmethod
    def judge(cls, output: str, record: Record) -> dict[str, Any]:
        """Extract and score one answer.

        Args:
            output: Generated text.
            record: Its record.

        Returns:
            `extracted`, `correct`, `extracted_strict` and `correct_strict`.
        """
        judged: dict[str, Any] = {}
        for suffix, strict in (("", False), ("_strict", True)):
            found = cls.extract(output, record, strict)
            judged[f"extracted{suffix}"] = found
            judged[f"correct{suffix}"] = found is not None and cls.is_right(found, record)
        return judged

    def update(self, outputs: Sequence[str], records: Sequence[Record]) -> None:
        """Add answers.

        Args:
            outputs: Generated texts.
            records: The record of each.
        """
        if not outputs:
            return
        rows, names = [], []
        for output, record in zip(outputs, records, strict=True):
            judged = self.judge(output, record)
            found = judged["extracted"] is not None
            rows.append([judged["correct"], judged["correct_strict"], found])
            names.append(list(record["task"].encode()[:_NAME_BYTES].ljust(_NAME_BYTES)))
        self.outcomes.append(torch.tensor(rows, dtype=torch.long, device=self.device))
        self.tasks.append(torch.tensor(names, dtype=torch.long, device=self.device))

    def compute(self) -> dict[str, Tensor]:
        """Compute the scores by name, as 0-dimensional float tensors."""
        outcomes, tasks = self.rows("outcomes").double(), self.rows("tasks")
        if not len(outcomes):
            return {}
        names = [bytes(row).decode(errors="ignore").strip() for row in tasks.tolist()]
        means = outcomes.mean(0)
        by_task = {
            task: outcomes[[name == task for name in names]].mean(0) for task in sorted(set(names))
        }
        return {
            "accuracy": means[0],
            "accuracy_strict": means[1],
            "accuracy_average": torch.stack([mean[0] for mean in by_task.values()]).mean(),
            "extracted": means[2],
            **{f"accuracy/{task}": mean[0] for task, mean in by_task.items()},
            **{f"accuracy_strict/{task}": mean[1] for task, mean in by_task.items()},
        }
