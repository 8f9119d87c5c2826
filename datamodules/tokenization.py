"""Tokenize records: rows of token ids and labels, cached on disk where there are many."""

import hashlib
import json
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from datamodules.candidates import candidate_rows, check_candidates, has_candidates
from datamodules.chat import chat_template, messages_of, tokenize_dialogue, tokenize_prompt
from datamodules.encoding import Encoding
from datamodules.errors import UserError
from datamodules.records import Record

SCHEME = 3  # version of what `encode` returns, part of the name of a cache
CACHED_FROM = 5_000  # records; fewer are tokenized in about a second


def encode(
    records: Sequence[Record],
    tokenizer: PreTrainedTokenizerBase,
    encoding: Encoding,
    *,
    for_generation: bool = True,
) -> Dataset:
    """Tokenize records.

    Args:
        records: Their prompts are instructions, not yet in a template.
        tokenizer: As `prepare_tokenizer` leaves it.
        encoding: How.
        for_generation: Whether the prompts of generation are needed; tokenizing is most of the
            time of a large data set.

    Returns:
        A dataset, one row per record, with `input_ids`, `labels` (-100 where unsupervised),
        `length` (of `input_ids`), `num_supervised`, `num_prompt_cut` and `num_response_cut` (tokens
        lost to the longest lengths); for generation also `prompt_ids`, `eval_length` (of them) and
        `num_eval_prompt_cut`, and the columns of `candidate_rows` if records have candidates. Large
        ones are cached on disk and memory-mapped.

    Raises:
        UserError: If a response is too long and may not be cut, no token of an example is
            supervised, or a candidate cannot be scored, naming the record.
    """
    with_candidates = for_generation and has_candidates(records, encoding)
    columns: dict[str, list[Any]]
    if encoding.is_chat:
        columns = {"messages": [messages_of(record) for record in records]}
        columns["id"] = [record["id"] for record in records]
    else:
        columns = {name: [r[name] for r in records] for name in ("prompt", "response")}
    if with_candidates:
        columns["candidates"] = [record["candidates"] for record in records]
    dataset = Dataset.from_dict(columns)
    # A tokenizer in Python has no state that could name a cache.
    small = len(records) < CACHED_FROM or not hasattr(tokenizer, "backend_tokenizer")
    key = None if small else _cache_file(records, tokenizer, encoding, for_generation)
    with nullcontext() if not small and sys.stderr.isatty() else _no_progress_bar():
        encoded = dataset.map(
            _encode_chats if encoding.is_chat else _encode_batch,
            batched=True,
            remove_columns=dataset.column_names,
            fn_kwargs={
                "tokenizer": tokenizer,
                "encoding": encoding,
                "for_generation": for_generation,
            },
            cache_file_name=key,
            # Else `datasets` hashes the tokenizer in each call: 0.25 s for that of Llama-3.
            new_fingerprint=uuid.uuid4().hex,
            load_from_cache_file=True,
            desc="tokenizing",
        )
    _check_rows(records, encoded, encoding)
    if with_candidates:
        check_candidates(records, encoded)
    return encoded


def _check_rows(records: Sequence[Record], encoded: Dataset, encoding: Encoding) -> None:
    """Refuse examples whose response is cut, or which have no supervised token."""
    columns = (encoded.data.column(n).to_numpy() for n in ("num_response_cut", "num_supervised"))
    for record, cut, supervised in zip(records, *columns, strict=True):
        if cut and not encoding.allow_truncated_responses:
            raise UserError(
                f"{record['id']}: the response loses {cut} tokens at encoding.max_length "
                f"{encoding.max_length}: raise it, or set encoding.allow_truncated_responses"
            )
        if not supervised:
            raise UserError(
                f"{record['id']}: no token is supervised at encoding.max_length "
                f"{encoding.max_length}: raise it, or set encoding.loss_on to all"
            )


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    shown = datasets.are_progress_bars_disabled() is False
    datasets.disable_progress_bars()
    yield
    if shown:
        datasets.enable_progress_bars()


def _cache_file(
    records: Sequence[Record],
    tokenizer: PreTrainedTokenizerBase,
    encoding: Encoding,
    for_generation: bool,
) -> str:
    """Name the cache of an encoding by all it depends on.

    The key that `datasets` would take hashes the tokenizer as an object, which changes with use.
    It writes to a temporary file and renames it, so a killed process leaves no partial cache,
    and two simultaneous processes write the same.
    """
    settings = sorted(asdict(encoding).items())
    key = hashlib.sha256(f"{SCHEME} {for_generation} {settings}".encode())
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    # Every call sets these; the tokens do not depend on them.
    state["padding"] = state["truncation"] = None
    key.update(json.dumps(state, sort_keys=True).encode())
    key.update(f"{tokenizer.bos_token_id} {tokenizer.eos_token_id}".encode())
    if encoding.is_chat:
        key.update(chat_template(tokenizer).encode())
    with_candidates = for_generation and has_candidates(records, encoding)
    if with_candidates:
        key.update(b"candidates")
    for record in records:
        texts = [record["prompt"], record["response"]]
        if with_candidates:
            some = record["candidates"]
            texts += [text for one in some for text in (one["prompt"], one["continuation"])]
            texts.insert(0, str(len(some)))
        if encoding.is_chat:
            turns = messages_of(record)
            texts = [text for turn in turns for text in (turn["role"], turn["content"])]
            # The next dialogue could continue this one.
            texts.insert(0, str(len(turns)))
        for text in map(str.encode, texts):
            # With its length before it, no two lists of texts give the same bytes.
            key.update(b"%d " % len(text) + text)
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "tera_pl"
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder / f"{key.hexdigest()}.arrow")


def _encode_batch(
    batch: dict[str, list[Any]],
    tokenizer: PreTrainedTokenizerBase,
    encoding: Encoding,
    for_generation: bool,
) -> dict[str, list[Any]]:
    def tokens(texts: list[str]) -> list[list[int]]:
        # Not verbose: that a text is longer than the model's window is said before it is cut.
        return tokenizer(
            texts, add_special_tokens=False, return_attention_mask=False, verbose=False
        )["input_ids"]

    prompts = [encoding.train_prompt(text) for text in batch["prompt"]]
    prompt_ids: list[list[int]] | None = None
    if encoding.tokenize == "separate":
        prompt_ids = tokens(prompts)
        both = zip(prompt_ids, tokens(batch["response"]), strict=True)
        rows = [_join(prompt, response, tokenizer, encoding) for prompt, response in both]
    else:
        texts = tokens([p + r for p, r in zip(prompts, batch["response"], strict=True)])
        lengths = _prompt_lengths(prompts, texts, tokens, encoding)
        counted = zip(texts, lengths, strict=True)
        rows = [_cut(text, length, tokenizer, encoding) for text, length in counted]
    if for_generation:
        evals = [encoding.eval_prompt(text) for text in batch["prompt"]]
        if prompt_ids is None or evals != prompts:
            prompt_ids = tokens(evals)
        prompted = zip(rows, prompt_ids, strict=True)
        rows = [row | _prompt(ids, tokenizer, encoding) for row, ids in prompted]
    if "candidates" in batch:
        finish = partial(_prompt, tokenizer=tokenizer, encoding=encoding)
        added = candidate_rows(batch["candidates"], tokens, finish, encoding)
        rows = [row | more for row, more in zip(rows, added, strict=True)]
    return {key: [row[key] for row in rows] for key in rows[0]}


def _encode_chats(
    batch: dict[str, list[Any]],
    tokenizer: PreTrainedTokenizerBase,
    encoding: Encoding,
    for_generation: bool,
) -> dict[str, list[Any]]:
    rows = []
    for messages, place in zip(batch["messages"], batch["id"], strict=True):
        try:
            ids, is_supervised = tokenize_dialogue(messages, tokenizer)
        except UserError as error:
            raise UserError(f"{place}: {error}") from None
        if encoding.loss_on == "all":
            is_supervised = [True] * len(ids)
        kept = slice(encoding.max_length)
        labels = [i if s else -100 for i, s in zip(ids[kept], is_supervised[kept], strict=True)]
        row = {
            "input_ids": ids[kept],
            "labels": labels,
            "length": len(labels),
            "num_supervised": sum(label != -100 for label in labels[1:]),
            "num_prompt_cut": is_supervised[encoding.max_length :].count(False),
            "num_response_cut": is_supervised[encoding.max_length :].count(True),
        }
        if for_generation:
            prompt = tokenize_prompt(messages[:-1], tokenizer)
            kept_prompt = prompt
            if encoding.max_eval_prompt_length is not None:
                kept_prompt = _shorten(prompt, encoding.max_eval_prompt_length, encoding)
            row |= {
                "prompt_ids": kept_prompt,
                "eval_length": len(kept_prompt),
                "num_eval_prompt_cut": len(prompt) - len(kept_prompt),
            }
        rows.append(row)
    return {key: [row[key] for row in rows] for key in rows[0]}


def _prompt_lengths(
    prompts: list[str],
    texts: list[list[int]],
    tokens: Callable[[list[str]], list[list[int]]],
    encoding: Encoding,
) -> list[int]:
    """Count the tokens of prompts where mask or cut depend on them; 0 elsewhere."""
    fits = encoding.max_length - 2  # with both special tokens
    needed = [encoding.loss_on == "response" or len(text) > fits for text in texts]
    if not any(needed):
        return [0] * len(prompts)
    found = iter(tokens([p for p, some in zip(prompts, needed, strict=True) if some]))
    return [len(next(found)) if some else 0 for some in needed]


def _join(
    prompt: list[int],
    response: list[int],
    tokenizer: PreTrainedTokenizerBase,
    encoding: Encoding,
) -> dict[str, Any]:
    """Make a training example of a prompt and a response, tokenized separately."""
    bos = [tokenizer.bos_token_id] if encoding.add_bos else []
    answer = [*response, *([tokenizer.eos_token_id] if encoding.add_eos else [])]
    room = encoding.max_length - len(bos)
    kept_answer = answer[: min(room, encoding.max_response_length or room)]
    room -= len(kept_answer)
    kept_prompt = _shorten(prompt, min(room, encoding.max_prompt_length or room), encoding)
    input_ids = [*bos, *kept_prompt, *kept_answer]
    masked = 0 if encoding.loss_on == "all" else len(bos) + len(kept_prompt)
    return _row(input_ids, masked, len(prompt) - len(kept_prompt), len(answer) - len(kept_answer))


def _cut(
    text: list[int], num_prompt: int, tokenizer: PreTrainedTokenizerBase, encoding: Encoding
) -> dict[str, Any]:
    """Make a training example of prompt and response, tokenized as one text."""
    bos = [tokenizer.bos_token_id] if encoding.add_bos else []
    eos = [tokenizer.eos_token_id] if encoding.add_eos else []
    uncut = [*bos, *text, *eos]
    input_ids = uncut[: encoding.max_length]
    # Where text and prompt meet, tokens may differ; the prompt's own number of tokens is masked.
    num_prompt = min(num_prompt + len(bos), len(uncut))
    kept_prompt = min(num_prompt, len(input_ids))
    masked = 0 if encoding.loss_on == "all" else kept_prompt
    cut = len(uncut) - len(input_ids)
    return _row(input_ids, masked, num_prompt - kept_prompt, cut - (num_prompt - kept_prompt))


def _row(input_ids: list[int], masked: int, prompt_cut: int, response_cut: int) -> dict[str, Any]:
    return {
        "input_ids": input_ids,
        "labels": [-100] * masked + input_ids[masked:],
        "length": len(input_ids),
        # The first token has nothing before it to be predicted from.
        "num_supervised": len(input_ids) - max(1, masked),
        "num_prompt_cut": prompt_cut,
        "num_response_cut": response_cut,
    }


def _prompt(
    ids: list[int], tokenizer: PreTrainedTokenizerBase, encoding: Encoding
) -> dict[str, Any]:
    """Make the prompt of generation."""
    bos = [tokenizer.bos_token_id] if encoding.bos_in_eval else []
    longest = encoding.max_eval_prompt_length
    kept = ids if longest is None else _shorten(ids, longest - len(bos), encoding)
    return {
        "prompt_ids": [*bos, *kept],
        "eval_length": len(bos) + len(kept),
        "num_eval_prompt_cut": len(ids) - len(kept),
    }


def _shorten(ids: list[int], longest: int, encoding: Encoding) -> list[int]:
    """Cut a prompt at the end that the encoding names."""
    if encoding.truncate_prompt == "right":
        return ids[:longest]
    return ids[max(0, len(ids) - longest) :]
