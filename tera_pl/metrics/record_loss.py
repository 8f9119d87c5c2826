"""Loss per supervised token and perplexity, with standard errors over records."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch.distributed as dist


class RecordLoss(NamedTuple):
    """The loss of one record.

    Args:
        id: The record.
        nll: Negative log-likelihood in nats, summed over its supervised tokens.
        tokens: Number of these tokens.
    """

    id: str
    nll: float
    tokens: int


class Estimate(NamedTuple):
    """A value estimated from a sample of records.

    Args:
        value: The estimate; NaN without supervised tokens.
        se: Its standard error, or None for fewer than two records.
    """

    value: float
    se: float | None


def loss_per_token(nll: Sequence[float], tokens: Sequence[int]) -> Estimate:
    """Estimate the loss per supervised token from a sample of records.

    The ratio estimator `R = sum(nll) / sum(tokens)`; its variance by the delta method is
    `m / (m - 1) * sum((nll - R tokens)^2) / sum(tokens)^2` for `m` records (Cochran, Sampling
    Techniques, 1977, section 6.4, without the correction for finite populations). Records are
    independent; tokens of one record need not be.

    Args:
        nll: Summed loss of each record in nats; or, to compare two models on the same records, the
            difference of their summed losses.
        tokens: Number of supervised tokens of each record.

    Returns:
        The loss in nats per token.
    """
    sums, counts = np.asarray(nll, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
    total, records = counts.sum(), len(counts)
    if not total:
        return Estimate(math.nan, None)
    ratio = float(sums.sum() / total)
    if records < 2:
        return Estimate(ratio, None)
    squares = float(((sums - ratio * counts) ** 2).sum())
    return Estimate(ratio, math.sqrt(records / (records - 1) * squares) / float(total))


def perplexity(loss: Estimate) -> Estimate:
    """Convert a loss per token in nats to a perplexity.

    Args:
        loss: The loss.

    Returns:
        `exp(loss)`, with the standard error `exp(loss) * se` by the delta method.
    """
    with np.errstate(over="ignore"):
        value = float(np.exp(loss.value))
    return Estimate(value, None if loss.se is None else value * loss.se)


def gather_records(losses: Sequence[RecordLoss]) -> list[RecordLoss]:
    """Gather the losses of all processes; a collective call.

    Args:
        losses: The losses of this process.

    Returns:
        In every process the losses of all, in order of records. A record that another process has
        too counts once: samplers repeat records so that processes have equally many.
    """
    parts = [list(losses)]
    if dist.is_available() and dist.is_initialized():
        parts = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(parts, list(losses))
    gathered: list[RecordLoss] = []
    for part in parts:
        seen = {row.id for row in gathered}
        gathered += [row for row in part if row.id not in seen]
    return sorted(gathered, key=lambda row: row.id)


def loss_scores(losses: Sequence[RecordLoss]) -> dict[str, float]:
    """Compute the scores of a split from the losses of its records.

    Args:
        losses: The losses.

    Returns:
        `loss` and `perplexity`, and their standard errors `loss_se` and `perplexity_se`, which are
        missing for fewer than two records; empty without records.
    """
    if not losses:
        return {}
    loss = loss_per_token([row.nll for row in losses], [row.tokens for row in losses])
    scores = {}
    for name, estimate in (("loss", loss), ("perplexity", perplexity(loss))):
        scores[name] = estimate.value
        if estimate.se is not None:
            scores[f"{name}_se"] = estimate.se
    return scores
