"""Accuracy of the likeliest of several candidate answers; nothing is generated."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from tera_pl.contracts import ScoredCandidate
from tera_pl.errors import UserError
from tera_pl.metrics.accuracy import Record, TaskAverages

# Suffix of the score by what a log-likelihood is divided by.
RULES = ("", "_norm", "_per_byte", "_per_token")


class ChoiceLikelihood(TaskAverages):
    """Fraction of records whose correct candidate has the highest log-likelihood.

    A candidate's log-likelihood is the sum over the tokens of its continuation after its prompt.
    There is one score for each rule of choice, in `[0, 1]`: `accuracy` takes the highest sum (`acc`
    of lm-evaluation-harness), `accuracy_norm` the highest per character (its `acc_norm`),
    `accuracy_per_byte` per UTF-8 byte (its `acc_bytes`), `accuracy_per_token` per token. A space
    at the start of a continuation does not count as a character or byte. Of equal candidates the
    first one is chosen; none is where a log-likelihood is not finite. `compute` also returns
    `accuracy_average` and `accuracy_norm_average`, the means over tasks, and each score by task,
    such as `accuracy_norm/<task>`.

    A record needs `candidates`, `reference` and `task`.
    """

    def __init__(self) -> None:
        super().__init__(num_outcomes=len(RULES))

    @property
    def scores_candidates(self) -> Literal[True]:
        """Mark the metric for the task: candidates are scored, and nothing is generated."""
        return True

    @staticmethod
    def names() -> list[str]:
        """List the scores that are always computed."""
        averages = ["accuracy_average", "accuracy_norm_average"]
        return [*(f"accuracy{rule}" for rule in RULES), *averages]

    @staticmethod
    def judge(output: Sequence[ScoredCandidate], record: Record) -> dict[str, Any]:
        """Choose a candidate by each rule.

        Args:
            output: The scored candidates, in the order of the record's.
            record: The record.

        Returns:
            `output`, the answer with the highest log-likelihood; `extracted` and `correct`, by the
            suffix of each rule; and the `candidates` with their `log_likelihoods` and `num_tokens`.

        Raises:
            UserError: If no candidate has the answer of the reference, or a continuation is empty.
        """
        candidates = record["candidates"]
        answers = [candidate["answer"] for candidate in candidates]
        if record["reference"] not in answers:
            raise UserError(
                f"{record.get('id', 'a record')}: reference {record['reference']!r} is not among "
                f"the answers of its candidates, {answers}: expected one of them"
            )
        sums = [scored.log_likelihood for scored in output]
        texts = [candidate["continuation"].removeprefix(" ") for candidate in candidates]
        lengths = {
            "": [1] * len(texts),
            "_norm": [len(text) for text in texts],
            "_per_byte": [len(text.encode()) for text in texts],
            "_per_token": [scored.num_tokens for scored in output],
        }
        # Without tokens a candidate would have the likelihood 1.
        if not all(map(all, lengths.values())):
            raise UserError(
                f"{record.get('id', 'a record')}: the continuation of a candidate is empty"
            )
        judged: dict[str, Any] = {}
        for rule in RULES:
            means = [total / length for total, length in zip(sums, lengths[rule], strict=True)]
            finite = all(map(math.isfinite, means))
            chosen = answers[means.index(max(means))] if finite else None
            judged[f"extracted{rule}"] = chosen
            judged[f"correct{rule}"] = chosen == record["reference"]
        return {
            "output": judged["extracted"],
            **judged,
            "candidates": answers,
            "log_likelihoods": sums,
            "num_tokens": lengths["_per_token"],
        }

    def update(
        self, outputs: Sequence[Sequence[ScoredCandidate]], records: Sequence[Record]
    ) -> None:
        """Add the scored candidates of records.

        Args:
            outputs: The scored candidates of each record.
            records: The records.
        """
        judged = [self.judge(*pair) for pair in zip(outputs, records, strict=True)]
        self.add([[j[f"correct{rule}"] for rule in RULES] for j in judged], records)

    def compute(self) -> dict[str, Tensor]:
        """Compute the scores by name, as 0-dimensional float tensors."""
        by_task, means = self.means(), self.mean()
        if not by_task:
            return {}
        average = torch.stack([*by_task.values()]).mean(0)
        scores = {f"accuracy{rule}": means[index] for index, rule in enumerate(RULES)}
        scores |= {"accuracy_average": average[0], "accuracy_norm_average": average[1]}
        for index, rule in enumerate(RULES):
            scores |= {f"accuracy{rule}/{task}": mean[index] for task, mean in by_task.items()}
        return scores
