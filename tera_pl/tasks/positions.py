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
) -> None:
    """Refuse sequences that are longer than a model has positions.

    Beyond them a model with learned positions crashes; one with rotary positions silently uses
    angles that it was never trained on.

    Args:
        config: Configuration of the model. One without `max_position_embeddings` has no limit.
        datamodule: The trainer's datamodule. If it is null or has no `longest_sequences`, only
            `max_new_tokens` is checked.
        stage: `fit`, `validate`, `test` or `predict`.
        virtual_tokens: Tokens that a prompt method puts before every sequence.
        max_new_tokens: Longest answer in tokens; checked whether or not a stage generates.
        scored: Returns whether answers are generated in `val` or `test`.

    Raises:
        UserError: If a sequence is too long, naming its record, or answers leave no position.
    """
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if positions is None:
        return
    virtual = f", the adapter's {virtual_tokens} virtual tokens" if virtual_tokens else ""
    prompt_room = positions - virtual_tokens - max_new_tokens
    if prompt_room < SHORTEST_PROMPT:
        raise UserError(
            f"model.init_args.generation.max_new_tokens {max_new_tokens}{virtual}: no room for "
            f"prompts in the {positions:,} positions of the model"
        )
    for split in SPLITS[stage]:
        longest = complete(datamodule).longest_sequences(split)
        if not longest:
            continue
        tokens, record = longest["example"]
        room = positions - virtual_tokens
        if stage != "predict" and tokens > room:
            raise UserError(
                f"{record} ({split}): {tokens:,} tokens{virtual} are more than the {positions:,} "
                f"positions of the model: set data.init_args.encoding.max_length to {room} or less"
            )
        if "prompt" not in longest or not (stage == "predict" or scored(split)):
            continue
        tokens, record = longest["prompt"]
        if tokens > prompt_room:
            raise UserError(
                f"{record} ({split}): a prompt of {tokens:,} tokens{virtual} and "
                f"model.init_args.generation.max_new_tokens {max_new_tokens} are more than the "
                f"{positions:,} positions of the model: set "
                f"data.init_args.encoding.max_eval_prompt_length to {prompt_room} or less; "
                "results.json counts the prompts that it truncates"
            )
