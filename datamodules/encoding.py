"""How records become tokens: template, special tokens, loss mask, truncation."""

from dataclasses import dataclass
from typing import Literal

from datamodules.chat import CHAT
from datamodules.errors import UserError

ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately "
    "completes the request.\n\n### Instruction:\n{instruction}\n\n### Response:\n"
)


@dataclass(frozen=True)
class Encoding:
    """How text becomes tokens, and which of them are supervised.

    With the defaults a prompt has the same tokens in training and in generation, and all tokens of
    a response are supervised, its end-of-sequence token included. The published protocols need
    the rest.

    Args:
        template: The prompt in training, with `{instruction}` where the record's instruction goes;
            or `chat`: the tokenizer's own chat template, with the loss on the assistant's turns.
            It places its own special tokens, so `add_bos` and `add_eos` have no effect.
        eval_template: The prompt in generation, if it differs.
        tokenize: Prompt and response as `separate` texts, or `joint` as one text.
        loss_on: Supervise the `response` only, or `all` tokens.
        max_length: Longest training example in tokens, special ones included. With joint
            tokenization the end is cut, with separate tokenization the prompt.
        max_prompt_length: Longest prompt in training, with separate tokenization.
        max_response_length: Longest response in training, with separate tokenization.
        truncate_prompt: Which end of a prompt that is too long is cut.
        max_eval_prompt_length: Longest prompt in generation, special tokens included;
            unlimited if not given.
        add_bos: Whether training examples start with the beginning-of-sequence token.
        eval_add_bos: Whether prompts in generation do, if other than in training.
        add_eos: Whether responses end with a supervised end-of-sequence token.
        pad_token: A special token of the tokenizer to pad with; its own padding token if not given.
        allow_truncated_responses: Cut a response that does not fit instead of refusing it.
    """

    template: str = ALPACA
    eval_template: str | None = None
    tokenize: Literal["separate", "joint"] = "separate"
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
        if self.is_chat:
            self._check_chat()
        for name in () if self.is_chat else ("template", "eval_template"):
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
        if self.tokenize == "joint" and (self.max_prompt_length or self.max_response_length):
            raise UserError(
                "encoding.max_prompt_length and max_response_length: expected encoding.tokenize: "
                "separate"
            )

    @property
    def is_chat(self) -> bool:
        """Whether records are put into the tokenizer's chat template."""
        return self.template == CHAT

    def _check_chat(self) -> None:
        for name in ("eval_template", "max_prompt_length", "max_response_length"):
            if getattr(self, name) is not None:
                raise UserError(f"encoding.{name}: expected null with encoding.template chat")
        if self.tokenize != "separate":
            raise UserError("encoding.tokenize: a chat template is one text: leave it out")

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
