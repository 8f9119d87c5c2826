"""Attention over sequences that lie one behind the other in one row, without padding.

A batch of examples of unequal lengths is one row of all their tokens. Every operation of a decoder
but attention works on single tokens; attention here keeps to the sequence. `ATTENTION` is a name
that transformers knows after this module is imported; without `lengths` it is its `sdpa`.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface, PretrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from tera_pl.errors import UserError

ATTENTION = "packed_sdpa"


def pack(batch: dict[str, Tensor]) -> dict[str, Any]:
    """Turn padded rows into one row without padding.

    Args:
        batch: `input_ids` and `attention_mask`, each `(batch, length)`, padded on either side.

    Returns:
        What a model with `ATTENTION` takes: `input_ids` and `position_ids`, each `(1, tokens)`,
        the `lengths` of the sequences, and a mask that masks nothing.
    """
    mask = batch["attention_mask"].bool()
    positions = mask.cumsum(1) - 1
    return {
        "input_ids": batch["input_ids"][mask].unsqueeze(0),
        "position_ids": positions[mask].unsqueeze(0),
        "lengths": mask.sum(1).tolist(),
        # Four dimensions are handed on as they are; transformers would make tokens x tokens.
        "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=mask.device),
    }


def check_packable(config: PretrainedConfig) -> None:
    """Refuse a model whose attention is more than causal.

    Args:
        config: Of the model.

    Raises:
        UserError: If it has windows or caps.
    """
    text = config.get_text_config()
    found = set(getattr(text, "layer_types", None) or ()) - {"full_attention"}
    found |= {
        name for name in ("sliding_window", "attn_logit_softcapping") if getattr(text, name, None)
    }
    if found:
        raise UserError(
            f"model.backbone.attn_implementation is {ATTENTION}, but the attention of "
            f"{config.model_type} has {', '.join(sorted(found))}: expected null, sdpa or eager"
        )


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    lengths: list[int] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend causally within each sequence, or as `sdpa` does without `lengths`.

    Args:
        module: The attention layer.
        query: Of shape `(1, heads, tokens, size)`.
        key: Of shape `(1, key heads, tokens, size)`.
        value: Likewise.
        attention_mask: Looked at without `lengths` only.
        dropout: Probability of dropping an attention weight.
        scaling: Of the products of query and key.
        lengths: Lengths of the sequences, in order; they add up to `tokens`.
        **kwargs: For `sdpa`.

    Returns:
        Outputs of shape `(1, tokens, heads, size)`, and nothing for the weights.
    """
    if lengths is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    grouped = query.shape[1] != key.shape[1]
    # One call per sequence: on an accelerator they are queued far ahead of the work.
    parts = zip(*(torch.split(t, lengths, dim=2) for t in (query, key, value)), strict=True)
    outputs = [
        F.scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=grouped
        )
        for q, k, v in parts
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2), None


AttentionInterface.register(ATTENTION, packed_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
