"""From records to tokens: template, special tokens, loss mask, truncation."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import datasets
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from datamodules.records import Record

ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately "
    "completes the request.\n\n### Instruction:\n{instruction}\n\n### Response:\n"
)

SCHEME = 1  # of what `encode` returns; a new one leaves old caches alone
CACHED_FROM = 5_000  # records; fewer are tokenised in about a second


@dataclass(frozen=True)
class Encoding:
    """How text becomes tokens and which of them are learnt.

    Prompt and response are tokenised apart and joined, so that the prompt's tokens are the same in
    training and in generation.

    Args:
        template: The prompt, with `{instruction}` where the record's instruction goes.
        loss_on: Learn the `response` only, or `all` tokens.
        max_length: Longest training example in tokens, special ones included. What is longer loses
            the start of its prompt, counted and reported.
        add_bos: Whether prompts start with the beginning-of-sequence token.
        add_eos: Whether responses end with the end-of-sequence token, and learn it.
        pad_token: An existing token to pad with, if the tokenizer names none.
        allow_truncated_responses: Cut a response that is longer than `max_length` instead of
            refusing it.
    """

    template: str = ALPACA
    loss_on: Literal["response", "all"] = "response"
    max_length: int = 256
    add_bos: bool = True
    add_eos: bool = True
    pad_token: str | None = None
    allow_truncated_responses: bool = False

    def __post_init__(self) -> None:
        if self.template.count("{instruction}") != 1:
            raise ValueError("encoding.template: expected {instruction} in it, once")
        if self.max_length < 2:
            raise ValueError(f"encoding.max_length is {self.max_length}: expected at least 2")

    def prompt(self, instruction: str) -> str:
        """Put an instruction into the template."""
        # Not `str.format`: instructions and templates may hold other braces.
        return self.template.replace("{instruction}", instruction)


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase, encoding: Encoding) -> None:
    """Give a tokenizer what an encoding needs, or say what is missing.

    Args:
        tokenizer: Changed in place: its padding token is set.
        encoding: What is needed.

    Raises:
        ValueError: If a token is needed that the tokenizer does not have.
    """
    name = getattr(tokenizer, "name_or_path", "")
    if tokenizer.eos_token_id is None:
        raise ValueError(f"the tokenizer {name!r} has no eos token: generation could not end")
    if encoding.add_bos and tokenizer.bos_token_id is None:
        raise ValueError(f"the tokenizer {name!r} has no bos token: set encoding.add_bos to false")
    if encoding.pad_token is not None:
        if encoding.pad_token not in tokenizer.get_vocab():
            raise ValueError(
                f"encoding.pad_token: the tokenizer {name!r} has no token {encoding.pad_token!r}"
            )
        tokenizer.pad_token = encoding.pad_token
    if tokenizer.pad_token_id is None:
        raise ValueError(
            f"the tokenizer {name!r} has no pad token: set data.init_args.encoding.pad_token to "
            f"one of its tokens, for example {tokenizer.unk_token or tokenizer.eos_token!r}"
        )


def encode(
    records: Sequence[Record],
    tokenizer: PreTrainedTokenizerBase,
    encoding: Encoding,
) -> Dataset:
    """Tokenise records.

    Args:
        records: With prompts that are already in their template.
        tokenizer: As `prepare_tokenizer` leaves it.
        encoding: How.

    Returns:
        A dataset, one row per record, with `input_ids`, `labels` (-100 where nothing is learnt),
        `prompt_ids` (the whole prompt, for generation), `num_prompt_cut` and `num_response_cut`
        (tokens lost to `max_length`). Large ones are cached on disk and memory-mapped.

    Raises:
        ValueError: If a response is too long and may not be cut, naming the record.
    """
    dataset = Dataset.from_list(
        [{"id": r["id"], "prompt": r["prompt"], "response": r["response"]} for r in records]
    )
    encoded = dataset.map(
        _encode_batch,
        batched=True,
        remove_columns=dataset.column_names,
        fn_kwargs={"tokenizer": tokenizer, "settings": asdict(encoding)},
        cache_file_name=_cache_file(records, tokenizer, encoding),
        load_from_cache_file=True,
    )
    if not encoding.allow_truncated_responses:
        for record, cut in zip(records, encoded["num_response_cut"], strict=True):
            if cut:
                raise ValueError(
                    f"{record['id']}: the response loses {cut} tokens at encoding.max_length "
                    f"{encoding.max_length}: raise it, or set encoding.allow_truncated_responses"
                )
    return encoded


def _cache_file(
    records: Sequence[Record], tokenizer: PreTrainedTokenizerBase, encoding: Encoding
) -> str | None:
    """Name the cache of an encoding by all it depends on; a few records need none.

    The key that `datasets` would take hashes the tokenizer as an object, which changes with use.
    """
    if len(records) < CACHED_FROM:
        return None
    key = hashlib.sha256(f"{SCHEME} {asdict(encoding)}".encode())
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    # Set by every call, and of no effect on the tokens.
    state["padding"] = state["truncation"] = None
    key.update(json.dumps(state, sort_keys=True).encode())
    key.update(f"{tokenizer.bos_token_id} {tokenizer.eos_token_id}".encode())
    for record in records:
        key.update(json.dumps([record["id"], record["prompt"], record["response"]]).encode())
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "tera_pl"
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder / f"{key.hexdigest()}.arrow")


def _encode_batch(
    batch: dict[str, list[Any]], tokenizer: PreTrainedTokenizerBase, settings: dict[str, Any]
) -> dict[str, list[Any]]:
    encoding = Encoding(**settings)
    prompts = tokenizer(batch["prompt"], add_special_tokens=False)["input_ids"]
    responses = tokenizer(batch["response"], add_special_tokens=False)["input_ids"]
    rows = [
        _join(prompt, response, tokenizer, encoding)
        for prompt, response in zip(prompts, responses, strict=True)
    ]
    return {key: [row[key] for row in rows] for key in rows[0]}


def _join(
    prompt: list[int],
    response: list[int],
    tokenizer: PreTrainedTokenizerBase,
    encoding: Encoding,
) -> dict[str, Any]:
    bos = [tokenizer.bos_token_id] if encoding.add_bos else []
    eos = [tokenizer.eos_token_id] if encoding.add_eos else []
    answer = [*response, *eos]
    room = encoding.max_length - len(bos)
    kept_answer = answer[:room]
    kept_prompt = prompt[max(0, len(prompt) - (room - len(kept_answer))) :]
    input_ids = [*bos, *kept_prompt, *kept_answer]
    masked = 0 if encoding.loss_on == "all" else len(bos) + len(kept_prompt)
    return {
        "input_ids": input_ids,
        "labels": [-100] * masked + input_ids[masked:],
        "prompt_ids": [*bos, *prompt],
        "num_prompt_cut": len(prompt) - len(kept_prompt),
        "num_response_cut": len(answer) - len(kept_answer),
    }
