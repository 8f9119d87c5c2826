"""Tokens of candidate answers: each with its prompt, its continuation scored."""

from collections.abc import Callable, Sequence
from typing import Any

from datasets import Dataset

from datamodules.encoding import Encoding
from datamodules.errors import UserError
from datamodules.records import Candidate, Record

Pair = tuple[list[int], list[int]]


def has_candidates(records: Sequence[Record], encoding: Encoding) -> bool:
    """Check whether records have candidates.

    Args:
        records: All have some, or none has.
        encoding: How they become tokens.

    Returns:
        Whether they have.

    Raises:
        UserError: If they have, and the template is a chat.
    """
    found = "candidates" in records[0]
    if found and encoding.is_chat:
        raise UserError(
            "encoding.template is chat: candidates continue a text (data.form: cloze): expected a "
            "template of text, such as '{instruction}'"
        )
    return found


def candidate_rows(
    groups: Sequence[Sequence[Candidate]],
    tokens: Callable[[list[str]], list[list[int]]],
    finish_prompt: Callable[[list[int]], dict[str, Any]],
    encoding: Encoding,
) -> list[dict[str, Any]]:
    """Tokenize the candidates of records.

    Args:
        groups: The candidates of each record.
        tokens: Tokenizes texts without special tokens.
        finish_prompt: Makes the prompt of generation of its tokens: cut, with special tokens.
        encoding: How texts become tokens.

    Returns:
        For each record `candidate_ids` (with their prompts), `candidate_scored` (how many tokens at
        their ends), `candidate_length` (of the longest) and `num_candidate_prompt_cut` (of the
        prompt that loses most).
    """
    pairs = iter(_tokenize([candidate for some in groups for candidate in some], tokens, encoding))
    rows = []
    for some in groups:
        own = [next(pairs) for _ in some]
        prompts = [finish_prompt(prompt) for prompt, _ in own]
        ids = [[*p["prompt_ids"], *text] for p, (_, text) in zip(prompts, own, strict=True)]
        rows.append(
            {
                "candidate_ids": ids,
                "candidate_scored": [len(text) for _, text in own],
                "candidate_length": max(map(len, ids)),
                "num_candidate_prompt_cut": max(p["num_eval_prompt_cut"] for p in prompts),
            }
        )
    return rows


def check_candidates(records: Sequence[Record], encoded: Dataset) -> None:
    """Refuse candidates that have no score.

    Args:
        records: The records.
        encoded: Their tokens, with the columns of `candidate_rows`.

    Raises:
        UserError: If a candidate has no tokens, or no token before them, naming the record.
    """
    columns = (encoded.data.column(n).to_pylist() for n in ("candidate_ids", "candidate_scored"))
    for record, rows, scored in zip(records, *columns, strict=True):
        for ids, number in zip(rows, scored, strict=True):
            if not 0 < number < len(ids):
                raise UserError(
                    f"{record['id']}: a candidate of {number} tokens after a prompt of "
                    f"{len(ids) - number}: expected at least one each (encoding.add_bos puts one "
                    "before an empty prompt)"
                )


def _tokenize(
    candidates: Sequence[Candidate],
    tokens: Callable[[list[str]], list[list[int]]],
    encoding: Encoding,
) -> list[Pair]:
    """Tokenize prompt and continuation of every candidate.

    Of a joint text the continuation has what is left after as many tokens as the prompt has by
    itself, without the white space at its end: the rule of lm-evaluation-harness.
    """
    joint = encoding.tokenize == "joint"
    prompts = [encoding.eval_prompt(candidate["prompt"]) for candidate in candidates]
    texts = [candidate["continuation"] for candidate in candidates]
    if joint:
        texts = [prompt + text for prompt, text in zip(prompts, texts, strict=True)]
        prompts = [prompt.rstrip() for prompt in prompts]
    # Most candidates of a record share their prompt.
    distinct = list(dict.fromkeys(prompts))
    prompt_ids = dict(zip(distinct, tokens(distinct), strict=True))
    both = zip(prompts, tokens(texts), strict=True)
    pairs = [(prompt_ids[prompt], ids) for prompt, ids in both]
    return [(prompt, ids[len(prompt) :]) for prompt, ids in pairs] if joint else pairs
