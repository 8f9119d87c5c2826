"""How long examples are, and what the longest lengths cut off."""

from collections.abc import Sequence
from typing import Any

from datasets import Dataset

from datamodules.records import Record

COLUMNS = ("length", "num_prompt_cut", "num_response_cut", "num_eval_prompt_cut")


def length_report(encoded: Dataset, records: Sequence[Record]) -> dict[str, Any]:
    """Count examples and tokens, overall and by task.

    Args:
        encoded: Tokenised records.
        records: The records.

    Returns:
        `examples`; `mean_tokens` and `max_tokens` of training examples as they are after cutting;
        `longest_uncut`, the max_length that would cut nothing; `truncated_prompts`,
        `truncated_responses` and `truncated_eval_prompts`, how many examples lose tokens; and
        `by_task`, the same for each task.
    """
    columns = [encoded.data.column(name).to_pylist() for name in COLUMNS]
    rows: dict[str, list[tuple[int, ...]]] = {}
    for record, *row in zip(records, *columns, strict=True):
        rows.setdefault(record["task"], []).append(tuple(row))
    everything = [row for some in rows.values() for row in some]
    return _count(everything) | {"by_task": {task: _count(some) for task, some in rows.items()}}


def as_table(report: dict[str, Any]) -> str:
    """Lay a report out in lines: one for all examples and, of several tasks, one for each."""
    lines = [_line("", report)]
    if len(report["by_task"]) > 1:
        lines += [_line(f"  {task}: ", counts) for task, counts in report["by_task"].items()]
    return "\n".join(lines)


def _count(rows: Sequence[tuple[int, ...]]) -> dict[str, Any]:
    lengths = [row[0] for row in rows]
    return {
        "examples": len(rows),
        "mean_tokens": sum(lengths) / len(rows),
        "max_tokens": max(lengths),
        "longest_uncut": max(length + prompt + response for length, prompt, response, _ in rows),
        "truncated_prompts": sum(row[1] > 0 for row in rows),
        "truncated_responses": sum(row[2] > 0 for row in rows),
        "truncated_eval_prompts": sum(row[3] > 0 for row in rows),
    }


def _line(head: str, counts: dict[str, Any]) -> str:
    cut = ", ".join(
        f"{counts[f'truncated_{what}']:,} {what.replace('_', ' ')}"
        for what in ("prompts", "responses", "eval_prompts")
    )
    return (
        f"{head}{counts['examples']:,} examples of {counts['mean_tokens']:.0f} tokens on average "
        f"and {counts['longest_uncut']:,} at most; truncated: {cut}"
    )
