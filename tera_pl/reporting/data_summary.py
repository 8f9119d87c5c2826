"""What a run trains on: examples with their supervised tokens, lengths, what is cut."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any, cast

import torch
from rich.console import Console
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from tera_pl import contracts
from tera_pl.errors import UserError

UNSUPERVISED = -100
SUPERVISED_STYLE, OTHER_STYLE = "bold green", "dim"
# Where there are no colors.
OPEN, CLOSE = "[[", "]]"
LONGEST = 1500  # characters of a text without supervised tokens that are printed
MOST_BATCHES = 1000  # of a datamodule without statistics
BAR = 40  # characters of the longest bar
SPLITS = ("train", "val", "test")
_COUNTED = {
    "examples": "examples",
    "mean_tokens": "mean tokens",
    "max_tokens": "longest",
    "longest_uncut": "longest uncut",
    "supervised_tokens": "supervised tokens",
    "truncated_prompts": "prompts cut",
    "truncated_responses": "responses cut",
    "truncated_eval_prompts": "generation prompts cut",
}


@dataclass(frozen=True)
class Example:
    """One training example.

    Args:
        id: Its name.
        parts: Texts in order, each with whether its tokens are supervised.
        num_tokens: Number of its tokens.
        num_supervised: Number of tokens with a label that are predicted from others.
    """

    id: str
    parts: Sequence[tuple[str, bool]]
    num_tokens: int
    num_supervised: int


def first_examples(
    datamodule: Any, tokenizer: PreTrainedTokenizerBase, number: int
) -> Iterator[Example]:
    """Take the examples that training sees first.

    Args:
        datamodule: A LightningDataModule after `setup("fit")`.
        tokenizer: The tokenizer of its batches.
        number: How many.

    Yields:
        The examples, without padding.

    Raises:
        UserError: If a batch lacks a field.
    """
    left = number
    for batch in _batches(datamodule) if number else ():
        names = contracts.complete(datamodule).ids_of(batch)
        fields = (batch[name] for name in ("input_ids", "labels", "attention_mask"))
        rows = list(zip(*fields, strict=True))[:left]
        # Of a batch that cannot be named there is one name.
        for index, (ids, labels, mask) in enumerate(rows):
            name = names[index] if index < len(names) else names[-1]
            yield _example(name, ids[mask.bool()], labels[mask.bool()], tokenizer)
        left -= len(rows)
        if left <= 0:
            return


def _batches(datamodule: Any) -> Iterator[contracts.TrainBatch]:
    for batch in datamodule.train_dataloader():
        if not isinstance(batch, Mapping):
            raise UserError(
                f"data: a batch of {type(datamodule).__name__} is a {type(batch).__name__}: "
                "expected a mapping, as tera_pl.contracts describes it"
            )
        contracts.check_batch(batch, datamodule, answered=False)
        yield cast(contracts.TrainBatch, batch)


def count_batches(datamodule: Any) -> dict[str, Any]:
    """Count the training examples of a datamodule that has no statistics.

    Args:
        datamodule: A LightningDataModule after `setup("fit")`.

    Returns:
        Counts as those of a datamodule, of at most `MOST_BATCHES` batches.
    """
    lengths: list[int] = []
    supervised = 0
    for batch in islice(_batches(datamodule), MOST_BATCHES):
        lengths += batch["attention_mask"].sum(1).tolist()
        supervised += int((batch["labels"][:, 1:] != UNSUPERVISED).sum())
    if not lengths:
        raise UserError(f"data: the train_dataloader() of {type(datamodule).__name__} is empty")
    counts = {"examples": len(lengths), "max_tokens": max(lengths), "supervised_tokens": supervised}
    return {"train": counts | {"mean_tokens": sum(lengths) / len(lengths)}}


def _example(
    name: str, ids: torch.Tensor, labels: torch.Tensor, tokenizer: PreTrainedTokenizerBase
) -> Example:
    supervised = (labels != UNSUPERVISED).tolist()
    parts: list[tuple[str, bool]] = []
    done, end = "", 0
    for is_supervised, run in groupby(supervised):
        end += len(list(run))
        # Some tokenizers drop a space at the start of a text, hence differences.
        text = tokenizer.decode(ids[:end].tolist(), clean_up_tokenization_spaces=False)
        if text.startswith(done):
            part, done = text[len(done) :], text
        else:  # a character whose tokens are on both sides
            start = end - 1
            while start > 0 and supervised[start - 1] == is_supervised:
                start -= 1
            part = tokenizer.decode(ids[start:end].tolist(), clean_up_tokenization_spaces=False)
            done = text
        parts.append((part, is_supervised))
    # The first token has nothing before it to be predicted from.
    return Example(name, parts, len(supervised), sum(supervised[1:]))


def print_example(example: Example, console: Console) -> None:
    """Print an example, the supervised text in color, or in brackets where there are no colors.

    Args:
        example: The example.
        console: Where to.
    """
    console.print(
        f"{example.id}: {example.num_tokens:,} tokens, {example.num_supervised:,} supervised",
        style="bold",
        soft_wrap=True,
        markup=False,
        highlight=False,
    )
    line = Text()
    for part, is_supervised in example.parts:
        text = _visible(part)
        if not is_supervised and len(text) > LONGEST:
            half = LONGEST // 2
            text = f"{text[:half]} ... {len(text) - 2 * half:,} characters ... {text[-half:]}"
        if is_supervised and not has_colors(console):
            text = f"{OPEN}{text}{CLOSE}"
        line.append(text, style=SUPERVISED_STYLE if is_supervised else OTHER_STYLE)
    console.print(line, soft_wrap=True)


def has_colors(console: Console) -> bool:
    """Check whether a console shows colors."""
    return console.is_terminal and not console.no_color


def _visible(text: str) -> str:
    """Replace control characters, which a terminal would obey."""
    shown = (c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)
    return "".join(shown)


def as_lines(statistics: Mapping[str, Any]) -> list[str]:
    """Lay out lengths and what is cut, by split, and a histogram of the training lengths.

    Args:
        statistics: What the datamodule counts.

    Returns:
        Lines.
    """
    found = {name: statistics[name] for name in SPLITS if "examples" in statistics.get(name, {})}
    rows = [["", *found]]
    for key, title in _COUNTED.items():
        values = [counts.get(key) for counts in found.values()]
        if any(value is not None for value in values):
            rows.append([title, *("" if value is None else f"{value:,.0f}" for value in values)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    ]
    if histogram := found.get("train", {}).get("histogram"):
        lines += ["", "training examples by tokens", *_bars(**histogram)]
    return lines


def _bars(start: int, width: int, counts: Sequence[int]) -> list[str]:
    """Draw a histogram: a line for each bin."""
    bounds = [(start + i * width, start + (i + 1) * width - 1) for i in range(len(counts))]
    heads = [f"{low:,}" if width == 1 else f"{low:,}-{high:,}" for low, high in bounds]
    longest, most = max(map(len, heads)), max(counts)
    lines = []
    for head, count in zip(heads, counts, strict=True):
        # What is there is seen.
        length = 0 if count == 0 else max(1, round(BAR * count / most))
        lines.append(f"{head:>{longest}}  {'#' * length:<{BAR}}  {count:,}")
    return lines
