"""Log-likelihoods of candidate answers, with what they share computed once."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tera_pl.contracts import Record, ScoredCandidate
from tera_pl.models.shared_prefix import share_prefixes
from tera_pl.tasks.loss import IGNORED, prepare, row_losses


def prepare_candidates(
    batch: Mapping[str, Tensor], records: Sequence[Record], *, packed: bool
) -> dict[str, Any]:
    """Compute on the host the inputs and indices that the scores of candidates need.

    Args:
        batch: One row per candidate, on the CPU; labels other than `IGNORED` are scored.
        records: The records that they belong to, in order.
        packed: Whether a record's candidates share their common beginning, and nothing is padded;
            otherwise each is a row of its own.

    Returns:
        What `prepare` returns.
    """
    if not packed:
        return prepare(batch, packed=False)
    rows = [
        (ids[mask].tolist(), labels[mask].tolist())
        for ids, labels, mask in zip(
            batch["input_ids"], batch["labels"], batch["attention_mask"].bool(), strict=True
        )
    ]
    remaining = iter(rows)
    # The last token predicts nothing that is scored.
    groups = [[next(remaining)[0][:-1] for _ in record["candidates"]] for record in records]
    inputs, places = share_prefixes(groups)
    scored = [
        (place, label)
        for (_, labels), some in zip(rows, places, strict=True)
        for place, label in zip(some, labels[1:], strict=True)
        if label != IGNORED
    ]
    columns = torch.tensor([place for place, _ in scored])
    return {
        "inputs": inputs,
        "rows": torch.zeros_like(columns),
        "columns": columns,
        "targets": torch.tensor([label for _, label in scored]),
        "length": inputs["input_ids"].shape[1],
    }


@torch.no_grad()
def score_candidates(
    model: nn.Module, prepared: Mapping[str, Any], labels: Tensor, records: Sequence[Record]
) -> list[list[ScoredCandidate]]:
    """Score the candidates of records.

    Args:
        model: A causal language model of transformers, adapted by PEFT or not.
        prepared: The result of `prepare_candidates`, on the device of the model.
        labels: Labels of the candidates, `(candidates, length)`, on the CPU.
        records: The records that they belong to, in order.

    Returns:
        For each record its candidates' log-likelihoods, sums over the scored tokens.
    """
    losses = row_losses(model, prepared, labels)
    scored = iter(ScoredCandidate(-float(row.sum(dtype=torch.float64)), len(row)) for row in losses)
    return [[next(scored) for _ in record["candidates"]] for record in records]
