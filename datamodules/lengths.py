"""How long examples are, and what the longest lengths cut off."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy
from datasets import Dataset

from datamodules.records import Record

COLUMNS = ("length", "num_prompt_cut", "num_response_cut", "num_supervised")
BINS = 12
EVAL_COLUMNS = ("eval_length", "num_eval_prompt_cut")
CANDIDATE_COLUMNS = ("candidate_length", "num_candidate_prompt_cut")


def length_report(encoded: Dataset, records: Sequence[Record]) -> dict[str, Any]:
    """Count examples and tokens, overall and by task.

    Args:
        encoded: Tokenized records.
        records: The records.

    Returns:
        `examples`; `mean_tokens` and `max_tokens` of training examples as they are after cutting;
        `longest_uncut`, the max_length that would cut nothing; `supervised_tokens`;
        `truncated_prompts` and `truncated_responses`, how many examples lose tokens; where there
        are prompts of generation `max_eval_prompt_tokens` and `truncated_eval_prompts`; where there
        are candidates `max_candidate_tokens`, with the prompt, and `truncated_candidate_prompts`;
        `by_task`, the same for each task; and `histogram` of the lengths: `counts` of bins of
        `width` tokens, the first of which begins at `start`.
    """
    known = (*COLUMNS, *EVAL_COLUMNS, *CANDIDATE_COLUMNS)
    names = [name for name in known if name in encoded.column_names]
    columns = {name: encoded.data.column(name).to_numpy() for name in names}
    tasks: dict[str, list[int]] = {}
    for index, record in enumerate(records):
        tasks.setdefault(record["task"], []).append(index)
    by_task = {
        task: _count({name: column[some] for name, column in columns.items()})
        for task, some in tasks.items()
    }
    return _count(columns) | {"by_task": by_task, "histogram": _histogram(columns["length"])}


def longest_records(encoded: Dataset, records: Sequence[Record]) -> dict[str, tuple[int, str]]:
    """Find the longest sequences.

    Args:
        encoded: Tokenized records.
        records: The records.

    Returns:
        Tokens and id of the longest `example`; where there are prompts of generation, of the
        longest `prompt`; where there are candidates, of the longest `candidate` with its prompt.
    """
    found = {}
    columns = {"example": "length", "prompt": "eval_length", "candidate": "candidate_length"}
    for name, column in columns.items():
        if column in encoded.column_names:
            lengths = encoded.data.column(column).to_numpy()
            index = int(lengths.argmax())
            found[name] = (int(lengths[index]), records[index]["id"])
    return found


def as_table(report: dict[str, Any]) -> str:
    """Lay a report out in lines: one for all examples, and one for each task that is cut."""
    lines = [_line("", report)]
    if len(report["by_task"]) > 1:
        lines += [
            _line(f"  {task}: ", counts)
            for task, counts in report["by_task"].items()
            if _cut(counts)
        ]
    return "\n".join(lines)


def _histogram(lengths: Any) -> dict[str, Any]:
    start = int(lengths.min())
    width = -(-(int(lengths.max()) - start + 1) // BINS)
    bins = (lengths - start) // width
    return {"start": start, "width": width, "counts": numpy.bincount(bins).tolist()}


def _count(columns: Mapping[str, Any]) -> dict[str, Any]:
    lengths, prompt_cut, response_cut, supervised = (columns[name] for name in COLUMNS)
    counts = {
        "examples": len(lengths),
        "mean_tokens": float(lengths.mean()),
        "max_tokens": int(lengths.max()),
        "longest_uncut": int((lengths + prompt_cut + response_cut).max()),
        "supervised_tokens": int(supervised.sum()),
        "truncated_prompts": int((prompt_cut > 0).sum()),
        "truncated_responses": int((response_cut > 0).sum()),
    }
    if "eval_length" in columns:
        counts["max_eval_prompt_tokens"] = int(columns["eval_length"].max())
        counts["truncated_eval_prompts"] = int((columns["num_eval_prompt_cut"] > 0).sum())
    if "candidate_length" in columns:
        counts["max_candidate_tokens"] = int(columns["candidate_length"].max())
        cut = columns["num_candidate_prompt_cut"]
        counts["truncated_candidate_prompts"] = int((cut > 0).sum())
    return counts


def _line(head: str, counts: dict[str, Any]) -> str:
    cut = ", ".join(_cut(counts)) or "none"
    return (
        f"{head}{counts['examples']:,} examples of {counts['mean_tokens']:.0f} tokens on average "
        f"and {counts['longest_uncut']:,} at most; truncated: {cut}"
    )


def _cut(counts: dict[str, Any]) -> list[str]:
    """Describe what was cut, if anything."""
    kinds = ("prompts", "responses", "eval_prompts", "candidate_prompts")
    return [
        f"{number:,} {kind.replace('_', ' ')}"
        for kind in kinds
        if (number := counts.get(f"truncated_{kind}", 0))
    ]
