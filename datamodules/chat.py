"""Dialogues in a tokenizer's own chat template, with the loss on the assistant's turns."""

import re
from collections.abc import Sequence
from datetime import date
from itertools import dropwhile
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerBase

from datamodules.errors import UserError
from datamodules.records import Message, Record

ROLES = {name: name for name in ("system", "user", "assistant")} | {
    "human": "user",  # ShareGPT's
    "gpt": "assistant",
}
CHAT = "chat"  # the value of `encoding.template`
# What templates get instead of today's date: the one that Llama 3.1 has where there is no clock.
DATE = date(2024, 7, 26)
_TODAY = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")
_MARKS_ASSISTANT = re.compile(r"\{%-?\s*generation\s*-?%\}")


def messages_of(record: Record) -> list[Message]:
    """Give the dialogue of a record.

    Args:
        record: With `messages`, or with one prompt and one response.

    Returns:
        Its turns, the last of which is the assistant's.
    """
    if "messages" in record:
        return record["messages"]
    return [
        {"role": "user", "content": record["prompt"]},
        {"role": "assistant", "content": record["response"]},
    ]


def chat_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """Give the template that dialogues are put into.

    Args:
        tokenizer: The owner of the template.

    Returns:
        Its template, of several the default one, with a fixed date in place of today's: the same
        data has the same tokens on every day.

    Raises:
        UserError: If none of several is the default, or the date cannot be fixed.
    """
    try:
        template = tokenizer.get_chat_template()
    except ValueError as error:
        raise UserError(f"encoding.template chat: {' '.join(str(error).split())}") from None
    fixed = _TODAY.sub(lambda call: repr(DATE.strftime(call[2])), template)
    if "strftime_now(" in fixed:
        raise UserError(
            "encoding.template chat: the tokenizer's chat template writes today's date in a format "
            "that is not a plain text: expected a template whose tokens do not depend on the day"
        )
    return fixed


def prompt_text(record: Record, tokenizer: PreTrainedTokenizerBase) -> str:
    """Give the text that the model answers in generation.

    Args:
        record: The dialogue.
        tokenizer: The owner of the template.

    Returns:
        All turns but the last in the template, and the beginning of the assistant's turn.
    """
    return _apply(tokenizer, messages_of(record)[:-1], add_generation_prompt=True, tokenize=False)


def tokenize_prompt(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokenize turns and the beginning of the assistant's next turn.

    Args:
        messages: The turns.
        tokenizer: The owner of the template.

    Returns:
        Token ids, special tokens included.
    """
    return _apply(tokenizer, messages, add_generation_prompt=True, return_dict=True)["input_ids"]


def tokenize_dialogue(
    messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase
) -> tuple[list[int], list[bool]]:
    """Tokenize a dialogue, and mark the assistant's tokens.

    A template with `{% generation %}` marks them itself. Of others the assistant's turn is what it
    adds to the prompt before it.

    Args:
        messages: The turns.
        tokenizer: The owner of the template.

    Returns:
        Token ids, and for each whether the assistant wrote it.

    Raises:
        UserError: If the template renders a turn differently once later ones follow, so that the
            assistant's tokens cannot be found.
    """
    if _MARKS_ASSISTANT.search(chat_template(tokenizer)):
        marked = _apply(tokenizer, messages, return_dict=True, return_assistant_tokens_mask=True)
        return marked["input_ids"], [bool(mask) for mask in marked["assistant_masks"]]
    ids: list[int] = _apply(tokenizer, messages, return_dict=True)["input_ids"]
    mask = [False] * len(ids)
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = tokenize_prompt(messages[:index], tokenizer)
        upto = ids  # the last turn ends the dialogue
        if index + 1 < len(messages):
            upto = _apply(tokenizer, messages[: index + 1], return_dict=True)["input_ids"]
        if ids[: len(upto)] != upto or upto[: len(before)] != before:
            raise UserError(
                "encoding.template chat: the tokenizer's chat template renders a turn differently "
                "when others follow, and does not mark the assistant's turns: expected a template "
                "with {% generation %} around them, or a template of your own in encoding.template"
            )
        mask[len(before) : len(upto)] = [True] * (len(upto) - len(before))
    return ids, mask


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Find the token that ends an assistant's turn, such as `<|im_end|>`.

    Args:
        tokenizer: The owner of the template.

    Returns:
        The first special token that the template writes after what the assistant says; none if it
        writes none there.
    """
    question: Message = {"role": "user", "content": "a"}
    # Where two dialogues begin to differ, the assistant says something.
    one, other = (
        _apply(tokenizer, [question, {"role": "assistant", "content": text}], return_dict=True)
        for text in ("a", "b")
    )
    pairs = zip(one["input_ids"], other["input_ids"], strict=False)
    after = dropwhile(lambda pair: pair[0] == pair[1], pairs)
    special = special_token_ids(tokenizer)
    return [token for token, _ in after if token in special][:1]


def special_token_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """List the tokens that a tokenizer makes of no ordinary text."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return {*tokenizer.all_special_ids, *(i for i, token in added.items() if token.special)}


def _apply(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], **settings: Any) -> Any:
    template = chat_template(tokenizer)
    try:
        return tokenizer.apply_chat_template(list(messages), chat_template=template, **settings)
    except jinja2.TemplateError as error:  # many templates refuse roles, or their order
        raise UserError(
            "encoding.template chat: the tokenizer's chat template refuses the dialogue of "
            f"{', '.join(message['role'] for message in messages)}: {error}"
        ) from None


def check_messages(messages: Any, place: str) -> list[Message]:
    """Check a dialogue that was read from a file.

    Args:
        messages: What the file has: turns of `role` and `content`, or of `from` and `value` with
            the roles of ShareGPT (`human`, `gpt`).
        place: File and record, for messages of errors.

    Returns:
        The turns, with `role` and `content` only.

    Raises:
        UserError: If it is not a list of turns with text that ends with the assistant's.
    """
    expected = (
        "expected a list of objects with role (system, user or assistant) and content, or with "
        "from (system, human or gpt) and value, all text"
    )
    if not isinstance(messages, list) or not messages:
        raise UserError(f"{place}: messages: {expected}")
    checked: list[Message] = []
    for number, turn in enumerate(messages):
        where = f"{place}, message {number}"
        if not isinstance(turn, dict):
            raise UserError(f"{where}: {expected}")
        # Tables give every turn the keys of all turns, with null where it has none.
        names = ("from", "value") if turn.get("from") is not None else ("role", "content")
        role, content = (turn.get(name) for name in names)
        if not isinstance(role, str) or role not in ROLES:
            raise UserError(f"{where}: {names[0]} is {role!r}: {expected}")
        if not isinstance(content, str):
            raise UserError(f"{where}: {names[1]} is {content!r}: {expected}")
        if not content.strip():
            raise UserError(f"{where}: {names[1]} is empty")
        checked.append({"role": ROLES[role], "content": content})
    if checked[-1]["role"] != "assistant" or len(checked) < 2:
        raise UserError(f"{place}: messages: expected the assistant's turn as the last of several")
    return checked
