"""Memory of generation from shapes alone: mostly the cache of keys and values."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from tera_pl.analysis.dry_run import Ledger, fused_attention


@dataclass(frozen=True)
class GenerationUsage:
    """Memory of generation, in bytes; weights are not in it.

    Args:
        cache: Keys and values of all prompts, beams and tokens.
        activations: Everything else that is alive at the peak.
    """

    cache: int
    activations: int


@torch.no_grad()
def dry_generation(
    model: Any, batch_size: int, num_beams: int, prompt_length: int, new_tokens: int
) -> GenerationUsage:
    """Read prompts and take the last step of a beam search on the meta device.

    Every beam has its own keys and values, of the prompt too, as in transformers. A step allocates
    the cache of one layer again; scores of all tokens and their logarithms are in float32.

    Args:
        model: A causal language model on the meta device, in evaluation mode.
        batch_size: Number of prompts.
        num_beams: Beams per prompt.
        prompt_length: Tokens of a prompt.
        new_tokens: Generated tokens.

    Returns:
        The memory.
    """
    rows = batch_size * num_beams
    cache = DynamicCache(config=model.config)
    ledger = Ledger(vocab_size=0)

    def step(length: int) -> Tensor:
        tokens = torch.zeros(rows, length, dtype=torch.long, device="meta")
        mask = torch.ones(rows, cache.get_seq_length() + length, dtype=torch.long, device="meta")
        outputs = model(
            input_ids=tokens,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return outputs.logits[:, -1].float().log_softmax(-1)

    with fused_attention(), ledger:
        step(prompt_length)
        for layer in cache.layers:
            for name in ("keys", "values"):
                old = getattr(layer, name)
                size = (*old.shape[:2], new_tokens - 1, old.shape[3])
                setattr(layer, name, torch.cat([old, old.new_empty(size)], dim=2))
            del old
        step(1)
    size = sum(t.nbytes for layer in cache.layers for t in (layer.keys, layer.values))
    return GenerationUsage(size, ledger.peak.total() - size)
