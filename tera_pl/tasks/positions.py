"""Check that the longest sequences of a dataset fit the positions of a model."""

from collections.abc import Callable
from typing import Any

from tera_pl.contracts import complete
from tera_pl.errors import UserError

SHORTEST_PROMPT = 2  # tokens: the least that `encoding.max_eval_prompt_length` can be

SPLITS = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("test",),
}


def check_positions(
    config: Any,
    datamodule: object,
    stage: str,
    *,
    virtual_tokens: int,
    max_new_tokens: int,
    scored: Callable[[str], bool],
    by_likelihood: bool = False,
) -> None:
    """Refuse sequences that are longer than a model has positions.

    Beyond them a model with learned positions crashes; one with rotary positions silently uses
    angles that it was never trained on.

    Args:
        config: Configuration of the model. One without `max_position_embeddings` has no limit.
        datamodule: Without `longest_sequences` only `max_new_tokens` is checked.
        stage: `fit`, `validate`, `test` or `predict`.
        virtual_tokens: Tokens that a prompt method puts before every sequence.
        max_new_tokens: Longest answer in tokens; checked whether or not a stage generates.
        scored: Returns whether answers are scored in `val` or `test`.
        by_likelihood: Whether they are candidates instead of generated.

    Raises:
        UserError: If a sequence is too long, naming its record, or answers leave no position.
    """
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if positions is None:
        return
    virtual = f", the adapter's {virtual_tokens} virtual tokens" if virtual_tokens else ""
    prompt_room = positions - virtual_tokens - max_new_tokens
    setting = f"model.init_args.generation.max_new_tokens {max_new_tokens}"
    if prompt_room < SHORTEST_PROMPT:
        raise UserError(
            f"{setting}{virtual}: no room for prompts in the {positions:,} positions of the model"
        )
    for split in SPLITS[stage]:
        if not (longest := complete(datamodule).longest_sequences(split)):
            continue
        tokens, record = longest["example"]
        room = positions - virtual_tokens
        if stage != "predict" and tokens > room:
            raise UserError(
                f"{record} ({split}): {tokens:,} tokens{virtual} are more than the {positions:,} "
                f"positions of the model: set data.init_args.encoding.max_length to {room} or less"
            )
        kind = "candidate" if by_likelihood else "prompt"
        if kind not in longest or not (stage == "predict" or scored(split)):
            continue
        tokens, record = longest[kind]
        allowed, added, limit = prompt_room, f"{virtual} and {setting}", f"to {prompt_room} or less"
        if by_likelihood:
            allowed, added, limit = room, f" with its prompt{virtual}", "lower"
        if tokens > allowed:
            raise UserError(
                f"{record} ({split}): a {kind} of {tokens:,} tokens{added} are more than the "
                f"{positions:,} positions of the model: set data.init_args.encoding."
                f"max_eval_prompt_length {limit}; results.json counts the prompts that it truncates"
            )
