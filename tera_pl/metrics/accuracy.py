"""Base classes of accuracies: extract an answer, compare it, average by task."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tera_pl.metrics.rows import RowMetric

Record = Mapping[str, Any]
_NAME_BYTES = 64


class TaskAverages(RowMetric):
    """Means of yes-or-no outcomes, overall and by task.

    Args:
        num_outcomes: Number of outcomes of a record.
    """

    outcomes: list[Tensor]
    tasks: list[Tensor]

    def __init__(self, num_outcomes: int) -> None:
        # The task's name is padded bytes: plain tensors, which processes exchange without knowing
        # the tasks of the others.
        super().__init__(
            outcomes=torch.zeros(0, num_outcomes, dtype=torch.long),
            tasks=torch.zeros(0, _NAME_BYTES, dtype=torch.long),
        )

    def add(self, rows: Sequence[Sequence[bool]], records: Sequence[Record]) -> None:
        """Add the outcomes of records.

        Args:
            rows: The outcomes of each.
            records: The records.
        """
        if not rows:
            return
        encoded = [record["task"].encode()[:_NAME_BYTES] for record in records]
        names = [list(name.ljust(_NAME_BYTES)) for name in encoded]
        self.outcomes.append(torch.tensor(rows, dtype=torch.long, device=self.device))
        self.tasks.append(torch.tensor(names, dtype=torch.long, device=self.device))

    def means(self) -> dict[str, Tensor]:
        """Average the outcomes.

        Returns:
            Means of shape `(num_outcomes,)` in float64 by task; empty without records.
        """
        outcomes, tasks = self.rows("outcomes").double(), self.rows("tasks")
        names = [bytes(row).decode(errors="ignore").strip() for row in tasks.tolist()]
        return {
            task: outcomes[[name == task for name in names]].mean(0) for task in sorted(set(names))
        }

    def mean(self) -> Tensor:
        """Average the outcomes over all records, to shape `(num_outcomes,)` in float64."""
        return self.rows("outcomes").double().mean(0)


class AnswerAccuracy(TaskAverages):
    """Fraction of correct answers, overall and by task.

    A subclass defines how an answer is extracted, as the literature does and by strict rules, and
    when it is correct. `compute` returns `accuracy` (mean over examples), `accuracy_strict` (by the
    strict rules), `accuracy_average` (mean over tasks, the paper's average), `extracted` (fraction
    of examples in which the literature's rules find an answer) and `accuracy/<task>` and
    `accuracy_strict/<task>`; all in `[0, 1]`.
    """

    def __init__(self) -> None:
        super().__init__(num_outcomes=3)  # correct, correct_strict, extracted

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
        judged = [self.judge(*pair) for pair in zip(outputs, records, strict=True)]
        rows = [[j["correct"], j["correct_strict"], j["extracted"] is not None] for j in judged]
        self.add(rows, records)

    def compute(self) -> dict[str, Tensor]:
        """Compute the scores by name, as 0-dimensional float tensors."""
        by_task, means = self.means(), self.mean()
        if not by_task:
            return {}
        return {
            "accuracy": means[0],
            "accuracy_strict": means[1],
            "accuracy_average": torch.stack([mean[0] for mean in by_task.values()]).mean(),
            "extracted": means[2],
            **{f"accuracy/{task}": mean[0] for task, mean in by_task.items()},
            **{f"accuracy_strict/{task}": mean[1] for task, mean in by_task.items()},
        }
