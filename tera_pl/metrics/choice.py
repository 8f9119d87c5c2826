"""Accuracy of labels chosen in words: `the correct answer is answer2`."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


def extract_choice(text: str, choices: Sequence[str], strict: bool = False) -> str | None:
    """Find the label that a text chooses.

    Args:
        text: A generated answer.
        choices: The labels.
        strict: False takes the first label that occurs anywhere, even inside another word, as the
            literature's scorer does (LLM-Adapters, `commonsense_evaluate.py`). True takes a label
            that stands for itself in a sentence `the correct answer is ...`, and none if several
            sentences disagree.

    Returns:
        The label, or none if nothing is found.

    Example:
        >>> extract_choice("that is untrue", ["true", "false"])
        'true'
        >>> extract_choice("that is untrue", ["true", "false"], strict=True) is None
        True
    """
    labels = "|".join(re.escape(choice) for choice in choices)
    if not strict:
        match = re.search(labels, text)
        return match.group() if match else None
    found = set(re.findall(rf"\bthe correct answer is:?\s+({labels})(?!\w)", text))
    return found.pop() if len(found) == 1 else None


class ChoiceAccuracy(Metric):
    """Fraction of answers whose label is the right one, overall and by task.

    `compute` returns `accuracy` (all examples alike), `accuracy_strict` (with strict extraction),
    `accuracy_average` (mean over tasks, the paper's average), `extracted` (fraction in which any
    label was found) and `accuracy/<task>`; all in `[0, 1]`.
    """

    full_state_update = False
    outcomes: list[Tensor]
    tasks: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        # Rows of (correct, correct_strict, found), and the task's name as padded bytes: plain
        # tensors, so that processes can exchange them without knowing each other's tasks.
        self.add_state("outcomes", default=[], dist_reduce_fx="cat")
        self.add_state("tasks", default=[], dist_reduce_fx="cat")

    @staticmethod
    def names() -> list[str]:
        """List the scores that are always there."""
        return ["accuracy", "accuracy_strict", "accuracy_average", "extracted"]

    @staticmethod
    def judge(output: str, record: Mapping[str, Any]) -> dict[str, Any]:
        """Extract and score one answer.

        Args:
            output: What the model generated.
            record: Its record, with `choices` and `reference`.

        Returns:
            `extracted`, `correct`, `extracted_strict` and `correct_strict`.
        """
        found = extract_choice(output, record["choices"])
        strict = extract_choice(output, record["choices"], strict=True)
        return {
            "extracted": found,
            "correct": found == record["reference"],
            "extracted_strict": strict,
            "correct_strict": strict == record["reference"],
        }

    def update(self, outputs: Sequence[str], records: Sequence[Mapping[str, Any]]) -> None:
        """Add answers.

        Args:
            outputs: What the model generated.
            records: The record of each, with `choices`, `reference` and `task`.
        """
        for output, record in zip(outputs, records, strict=True):
            judged = self.judge(output, record)
            row = [judged["correct"], judged["correct_strict"], judged["extracted"] is not None]
            self.outcomes.append(torch.tensor([row], dtype=torch.long, device=self.device))
            name = record["task"].encode()[:64].ljust(64)
            self.tasks.append(torch.tensor([list(name)], dtype=torch.long, device=self.device))

    def compute(self) -> dict[str, Tensor]:
        """Give the scores by name, as 0-dimensional float tensors."""
        outcomes, tasks = _stack(self.outcomes).double(), _stack(self.tasks)
        if not len(outcomes):
            return {}
        names = [bytes(row).decode(errors="ignore").strip() for row in tasks.tolist()]
        means = outcomes.mean(0)
        by_task = {
            f"accuracy/{task}": outcomes[[name == task for name in names], 0].mean()
            for task in sorted(set(names))
        }
        return {
            "accuracy": means[0],
            "accuracy_strict": means[1],
            "accuracy_average": torch.stack(list(by_task.values())).mean(),
            "extracted": means[2],
            **by_task,
        }


def _stack(state: Tensor | list[Tensor]) -> Tensor:
    """Give a list state as one tensor; after a sync it already is."""
    if isinstance(state, Tensor):
        return state
    return torch.cat(state) if state else torch.zeros(0)
