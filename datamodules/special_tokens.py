"""The special tokens that an encoding needs of a tokenizer."""

from transformers import PreTrainedTokenizerBase

from datamodules.chat import chat_template
from datamodules.encoding import Encoding
from datamodules.errors import UserError


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase, encoding: Encoding) -> None:
    """Set the padding token, and check the special tokens that an encoding needs.

    Args:
        tokenizer: Changed in place: its padding token is set.
        encoding: What is needed.

    Raises:
        UserError: If a token is needed that the tokenizer does not have.
    """
    name = getattr(tokenizer, "name_or_path", "")
    if tokenizer.eos_token_id is None:
        raise UserError(f"the tokenizer {name!r} has no eos token: generation could not end")
    if encoding.is_chat:
        if tokenizer.chat_template is None:
            raise UserError(
                f"encoding.template chat: the tokenizer {name!r} has no chat template: give a "
                "template with {instruction}"
            )
        chat_template(tokenizer)
    elif (encoding.add_bos or encoding.bos_in_eval) and tokenizer.bos_token_id is None:
        raise UserError(f"the tokenizer {name!r} has no bos token: set encoding.add_bos to false")
    if encoding.pad_token is not None:
        if encoding.pad_token not in tokenizer.get_vocab():
            raise UserError(
                f"encoding.pad_token: the tokenizer {name!r} has no token {encoding.pad_token!r}"
            )
        if encoding.pad_token not in _special_tokens(tokenizer):
            raise UserError(
                f"encoding.pad_token: {encoding.pad_token!r} is a token of ordinary text to the "
                f"tokenizer {name!r}: expected a special one such as {tokenizer.eos_token!r}, or "
                "null for the tokenizer's own"
            )
        tokenizer.pad_token = encoding.pad_token
    if tokenizer.pad_token_id is None:
        raise UserError(
            f"the tokenizer {name!r} has no pad token: set data.init_args.encoding.pad_token to "
            f"one of its tokens, for example {tokenizer.unk_token or tokenizer.eos_token!r}"
        )


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """Tokens that a tokenizer makes of no ordinary text."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    return {*tokenizer.all_special_tokens, *(str(t) for t in added if t.special)}
