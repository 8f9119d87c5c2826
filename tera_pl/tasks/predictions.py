"""Predictions: answers beside their records."""

from collections.abc import Sequence
from typing import Any

from tera_pl.contracts import LikelihoodMetric, Metric, Record

Predictions = dict[str, list[dict[str, Any]]]


def judge(
    records: Sequence[Record], outputs: Sequence[Any], metric: Metric | LikelihoodMetric | None
) -> Predictions:
    """Put answers beside their records, with the metric's verdict on each.

    Args:
        records: The records of a batch.
        outputs: The generated answer to each, or its scored candidates, of which the metric makes
            the `output` of the row.
        metric: Extracts and scores an answer, or None.

    Returns:
        Under `predictions`, one row for `predictions.jsonl` per record.
    """
    predictions = []
    for record, output in zip(records, outputs, strict=True):
        prediction: dict[str, Any] = {
            "id": record["id"],
            "task": record["task"],
            "prompt": record["prompt"],
            "output": output,
            "reference": record["reference"],
        }
        if metric is not None:
            prediction |= metric.judge(output, record)
        predictions.append(prediction)
    return {"predictions": predictions}
