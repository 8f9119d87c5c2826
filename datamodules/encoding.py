"""From records to tokens: template, special tokens, loss mask, truncation."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import datasets
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from datamodules.errors import UserError
from datamodules.records import Record

ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately "
    "completes the request.\n\n### Instruction:\n{instruction}\n\n### Response:\n"
)

SCHEME = 2  # of what `encode` returns; a new one leaves old caches alone
CACHED_FROM = 5_000  # records; fewer are tokenised in about a second


@dataclass(frozen=True)
class Encoding:
    """How text becomes tokens and which of them are learnt.

    The defaults are what is sound: a prompt has the same tokens in training and in generation, a
    response is learnt whole and with its end. The published protocols need the rest.

    Args:
        template: The prompt in training, with `{instruction}` where the record's instruction goes.
        eval_template: The prompt in generation, if another.
        tokenize: Prompt and response `apart`, each to its own tokens, or `together` as one text.
        loss_on: Learn the `response` only, or `all` tokens.
        max_length: Longest training example in tokens, special ones included. Of text that is
            tokenised together the end is cut, of other text the prompt.
        max_prompt_length: Longest prompt in training, if tokenised apart.
        max_response_length: Longest response in training, if tokenised apart.
        truncate_prompt: Which end of a prompt that is too long is cut.
        max_eval_prompt_length: Longest prompt in generation, special tokens included; whole
            prompts if not given.
        add_bos: Whether training examples start with the beginning-of-sequence token.
        eval_add_bos: Whether prompts in generation do, if other than in training.
        add_eos: Whether responses end with the end-of-sequence token, and learn it.
        pad_token: An existing token to pad with, if the tokenizer names none.
        allow_truncated_responses: Cut a response that does not fit instead of refusing it.
    """

    template: str = ALPACA
    eval_template: str | None = None
    tokenize: Literal["apart", "together"] = "apart"
    loss_on: Literal["response", "all"] = "response"
    max_length: int = 256
    max_prompt_length: int | None = None
    max_response_length: int | None = None
    truncate_prompt: Literal["left", "right"] = "left"
    max_eval_prompt_length: int | None = None
    add_bos: bool = True
    eval_add_bos: bool | None = None
    add_eos: bool = True
    pad_token: str | None = None
    allow_truncated_responses: bool = False

    def __post_init__(self) -> None:
        for name in ("template", "eval_template"):
            template = getattr(self, name)
            if template is not None and template.count("{instruction}") != 1:
                raise UserError(f"encoding.{name}: expected {{instruction}} in it, once")
        for name, smallest in (
            ("max_length", 2),
            ("max_prompt_length", 1),
            ("max_response_length", 1),
            ("max_eval_prompt_length", 2),
        ):
            value = getattr(self, name)
            if value is not None and value < smallest:
                raise UserError(f"encoding.{name} is {value}: expected at least {smallest}")
        if self.tokenize == "together" and (self.max_prompt_length or self.max_response_length):
            raise UserError(
                "encoding.max_prompt_length and max_response_length need encoding.tokenize: apart"
            )

    def train_prompt(self, instruction: str) -> str:
        """Put an instruction into the template of training."""
        # Not `str.format`: instructions and templates may hold other braces.
        return self.template.replace("{instruction}", instruction)

    def eval_prompt(self, instruction: str) -> str:
        """Put an instruction into the template of generation."""
        return (self.eval_template or self.template).replace("{instruction}", instruction)

    @property
    def bos_in_eval(self) -> bool:
        """Whether prompts in generation start with the beginning-of-sequence token."""
        return self.add_bos if self.eval_add_bos is None else self.eval_add_bos


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase, encoding: Encoding) -> None:
    """Give a tokenizer what an encoding needs, or say what is missing.

    Args:
        tokenizer: Changed in place: its padding token is set.
        encoding: What is needed.

    Raises:
        UserError: If a token is needed that the tokenizer does not have.
    """
    name = getattr(tokenizer, "name_or_path", "")
    if tokenizer.eos_token_id is None:
        raise UserError(f"the tokenizer {name!r} has no eos token: generation could not end")
    if (encoding.add_bos or encoding.bos_in_eval) and tokenizer.bos_token_id is None:
        raise UserError(f"the tokenizer {name!r} has no bos token: set encoding.add_bos to false")
    if encoding.pad_token is not None:
        if encoding.pad_token not in tokenizer.get_vocab():
            raise UserError(
                f"encoding.pad_token: the tokenizer {name!r} has no token {encoding.pad_token!r}"
            )
        tokenizer.pad_token = encoding.pad_token
    if tokenizer.pad_token_id is None:
        raise UserError(
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
        records: Their prompts are instructions, not yet in a template.
        tokenizer: As `prepare_tokenizer` leaves it.
        encoding: How.

    Returns:
        A dataset, one row per record, with `input_ids`, `labels` (-100 where nothing is learnt),
        `prompt_ids` (the prompt of generation), `length` (of `input_ids`), `eval_length` (of
        `prompt_ids`), `num_prompt_cut`, `num_response_cut` and `num_eval_prompt_cut` (tokens lost
        to the longest lengths). Large ones are cached on disk and memory-mapped.

    Raises:
        UserError: If a response is too long and may not be cut, or nothing of an example is left
            to learn, naming the record.
    """
    dataset = Dataset.from_list(
        [{"prompt": r["prompt"], "response": r["response"]} for r in records]
    )
    small = len(records) < CACHED_FROM
    with _no_progress_bar() if small else nullcontext():
        encoded = dataset.map(
            _encode_batch,
            batched=True,
            remove_columns=dataset.column_names,
            fn_kwargs={"tokenizer": tokenizer, "encoding": encoding},
            cache_file_name=None if small else _cache_file(records, tokenizer, encoding),
            load_from_cache_file=True,
            desc="tokenising",
        )
    columns = (encoded.data.column(name).to_pylist() for name in ("num_response_cut", "num_learnt"))
    lost = zip(records, *columns, strict=True)
    for record, cut, learnt in lost:
        if cut and not encoding.allow_truncated_responses:
            raise UserError(
                f"{record['id']}: the response loses {cut} tokens at encoding.max_length "
                f"{encoding.max_length}: raise it, or set encoding.allow_truncated_responses"
            )
        if not learnt:
            raise UserError(
                f"{record['id']}: nothing is left to learn at encoding.max_length "
                f"{encoding.max_length}: raise it, or set encoding.loss_on to all"
            )
    return encoded


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    shown = datasets.are_progress_bars_disabled() is False
    datasets.disable_progress_bars()
    yield
    if shown:
        datasets.enable_progress_bars()


def _cache_file(
    records: Sequence[Record], tokenizer: PreTrainedTokenizerBase, encoding: Encoding
) -> str:
    """Name the cache of an encoding by all it depends on.

    The key that `datasets` would take hashes the tokenizer as an object, which changes with use.
    It writes to a temporary file and renames it, so a process that is killed leaves no half cache
    and two that start together write the same.
    """
    key = hashlib.sha256(f"{SCHEME} {sorted(asdict(encoding).items())}".encode())
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    # Set by every call, and of no effect on the tokens.
    state["padding"] = state["truncation"] = None
    key.update(json.dumps(state, sort_keys=True).encode())
    key.update(f"{tokenizer.bos_token_id} {tokenizer.eos_token_id}".encode())
    for record in records:
        key.update(json.dumps([record["prompt"], record["response"]]).encode())
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "tera_pl"
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder / f"{key.hexdigest()}.arrow")


def _encode_batch(
    batch: dict[str, list[Any]], tokenizer: PreTrainedTokenizerBase, encoding: Encoding
) -> dict[str, list[Any]]:
    def tokens(texts: list[str]) -> list[list[int]]:
        return tokenizer(texts, add_special_tokens=False)["input_ids"]

    prompts = [encoding.train_prompt(text) for text in batch["prompt"]]
    prompt_ids = tokens(prompts)
    if encoding.tokenize == "apart":
        pairs = zip(prompt_ids, tokens(batch["response"]), strict=True)
        rows = [_join(prompt, response, tokenizer, encoding) for prompt, response in pairs]
    else:
        texts = [p + response for p, response in zip(prompts, batch["response"], strict=True)]
        whole = zip(tokens(texts), prompt_ids, strict=True)
        rows = [_cut(text, len(prompt), tokenizer, encoding) for text, prompt in whole]
    evals = tokens([encoding.eval_prompt(text) for text in batch["prompt"]])
    rows = [row | _prompt(ids, tokenizer, encoding) for row, ids in zip(rows, evals, strict=True)]
    return {key: [row[key] for row in rows] for key in rows[0]}


def _join(
    prompt: list[int],
    response: list[int],
    tokenizer: PreTrainedTokenizerBase,
    encoding: Encoding,
) -> dict[str, Any]:
    """Make a training example of a prompt and a response that were tokenised apart."""
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
    """Make a training example of prompt and response that were tokenised as one text."""
    bos = [tokenizer.bos_token_id] if encoding.add_bos else []
    eos = [tokenizer.eos_token_id] if encoding.add_eos else []
    whole = [*bos, *text, *eos]
    input_ids = whole[: encoding.max_length]
    # Where text and prompt meet, tokens may differ; the prompt's own number of tokens is masked.
    num_prompt = min(num_prompt + len(bos), len(whole))
    kept_prompt = min(num_prompt, len(input_ids))
    masked = 0 if encoding.loss_on == "all" else kept_prompt
    cut = len(whole) - len(input_ids)
    return _row(input_ids, masked, num_prompt - kept_prompt, cut - (num_prompt - kept_prompt))


def _row(input_ids: list[int], masked: int, prompt_cut: int, response_cut: int) -> dict[str, Any]:
    return {
        "input_ids": input_ids,
        "labels": [-100] * masked + input_ids[masked:],
        "length": len(input_ids),
        # The first token has nothing before it to be predicted from.
        "num_learnt": len(input_ids) - max(1, masked),
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
