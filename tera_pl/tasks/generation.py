"""Generate answers to prompts."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import takewhile
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from tera_pl.contracts import PromptBatch
from tera_pl.errors import UserError


@dataclass(frozen=True)
class Generation:
    """Settings of generation, which is deterministic: nothing is sampled.

    Args:
        max_new_tokens: Longest answer, in tokens.
        num_beams: Width of the beam search; 1 is greedy.
        length_penalty: Exponent of the length in a beam's score.
        no_repeat_ngram_size: Forbid repeating n-grams of this size, the prompt's included; 0 is
            off.
        stop: Texts that end an answer, which is cut before the first of them.
    """

    max_new_tokens: int = 32
    num_beams: int = 1
    length_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    stop: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, value, least in (
            ("max_new_tokens", self.max_new_tokens, 1),
            ("num_beams", self.num_beams, 1),
            ("no_repeat_ngram_size", self.no_repeat_ngram_size, 0),
        ):
            if value < least:
                raise UserError(f"{name} is {value}: expected at least {least}")
        if not math.isfinite(self.length_penalty):
            raise UserError(f"length_penalty is {self.length_penalty}: expected a finite number")
        if "" in self.stop:
            raise UserError("stop: an empty text would end every answer at once")

    def settings(self) -> dict[str, Any]:
        """Give the arguments of `generate` in transformers."""
        settings = asdict(self)
        del settings["stop"]
        return settings | {"do_sample": False}

    def cut(self, text: str) -> str:
        """Cut an answer before the first text that ends it."""
        return text[: min((text.find(stop) for stop in self.stop if stop in text), default=None)]


@torch.no_grad()
def generate_answers(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    batch: PromptBatch,
    generation: Generation,
    *,
    synced: bool,
    stop_token_ids: Sequence[int] = (),
) -> list[str]:
    """Answer the prompts of a batch.

    Args:
        model: A causal language model of transformers, adapted by PEFT or not.
        tokenizer: Its tokenizer.
        batch: The prompts.
        generation: Settings.
        synced: Whether all processes generate until the last has finished: the processes gather
            the weights of sharded layers together.
        stop_token_ids: Tokens that end an answer besides the end-of-sequence token.

    Returns:
        One text per prompt: what follows the prompt, up to the first token or text that ends an
        answer.
    """
    prompts = batch["prompt_input_ids"]
    eos = tokenizer.eos_token_id
    ends = [eos, *(token for token in stop_token_ids if token != eos)]
    # Texts that end an answer are cut off below. Greedy search can stop there as well; with beams
    # that would change which one is chosen.
    early: dict[str, Any] = {}
    if generation.stop and generation.num_beams == 1:
        early = {"stop_strings": generation.stop, "tokenizer": tokenizer}
    outputs = model.generate(
        input_ids=prompts,
        attention_mask=batch["prompt_attention_mask"],
        eos_token_id=ends,
        # Fills rows that have ended; those tokens are cut off below.
        pad_token_id=eos,
        synced_gpus=synced,
        **generation.settings(),
        **early,
    )
    answers = outputs[:, prompts.shape[1] :].tolist()
    cut = [list(takewhile(lambda token: token not in ends, ids)) for ids in answers]
    texts = tokenizer.batch_decode(cut, skip_special_tokens=True)
    return [generation.cut(text) for text in texts]
