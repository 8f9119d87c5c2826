"""Attention over concatenated (packed, padding-free) sequences.

A batch of examples of unequal lengths becomes one row of all their tokens. Of the operations of a
decoder only attention mixes tokens; here it does so within each sequence. Importing this module
registers `ATTENTION` with transformers; without `lengths` it is `sdpa`.
"""

import inspect
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "packed_sdpa"
# Terms of an attention that only some models have, and packed attention does not compute.
UNSUPPORTED = ("softcap", "position_bias", "s_aux")


def _find_kernel() -> Any:
    """Return torch's attention for sequences of varying lengths, or None if it lacks a setting."""
    try:
        function = import_module("torch.nn.attention.varlen").varlen_attn
    except ImportError:  # torch before 2.10
        return None
    settings = {"scale", "window_size", "enable_gqa"}
    return function if settings <= inspect.signature(function).parameters.keys() else None


varlen_attn = _find_kernel()


def pack(batch: dict[str, Tensor]) -> dict[str, Any]:
    """Concatenate the sequences of a padded batch into one row without padding.

    Args:
        batch: `input_ids` and `attention_mask`, each `(batch, length)`, padded on either side.

    Returns:
        Arguments of a model with `ATTENTION`: `input_ids` and `position_ids`, each `(1, tokens)`,
        the `lengths` of the sequences, their cumulative sum from zero, `boundaries`, of shape
        `(sequences + 1,)` in int32, and a mask that masks nothing.
    """
    mask = batch["attention_mask"].bool()
    positions = mask.cumsum(1) - 1
    lengths = mask.sum(1)
    return {
        "input_ids": batch["input_ids"][mask].unsqueeze(0),
        "position_ids": positions[mask].unsqueeze(0),
        "lengths": lengths.tolist(),
        "boundaries": F.pad(lengths.cumsum(0), (1, 0)).to(torch.int32),
        # transformers passes a 4-D mask on; it would expand a 2-D one to tokens x tokens.
        "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=mask.device),
    }


def packed_attention(  # noqa: PLR0913 - transformers calls it
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    lengths: list[int] | None = None,
    boundaries: Tensor | None = None,
    sliding_window: int | None = None,
    distances: list[Tensor] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend causally within each sequence; without `lengths` this is `sdpa`.

    If torch has a kernel for all sequences at once (CUDA, 16 bits, no dropout), it is called once;
    otherwise `scaled_dot_product_attention` is called per sequence.

    Args:
        module: The attention layer.
        query: Of shape `(1, heads, tokens, size)`.
        key: Of shape `(1, key heads, tokens, size)`.
        value: Likewise.
        attention_mask: Used without `lengths` only.
        dropout: Probability of dropping an attention weight.
        scaling: Factor of the products of query and key.
        lengths: Lengths of the sequences, in order; they add up to `tokens`.
        boundaries: Their cumulative sum from zero, int32; the kernel for all sequences needs it.
        sliding_window: Number of tokens that a token attends to, itself included.
        distances: For sequences that share tokens (`share_prefixes`), one per group: how many
            tokens each token is after each other one, `(length, length)`; negative where it does
            not attend to it.
        **kwargs: Further arguments of `sdpa`.

    Returns:
        Outputs of shape `(1, tokens, heads, size)`, and None for the attention weights.

    Raises:
        NotImplementedError: If the attention has a term that is not computed here.
    """
    if lengths is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    if found := [name for name in UNSUPPORTED if kwargs.get(name) is not None]:
        raise NotImplementedError(f"{ATTENTION} of {type(module).__name__} with {', '.join(found)}")
    longest, window = max(lengths), sliding_window or 0
    window = window if 0 < window < longest else 0
    if boundaries is not None and _has_kernel(query, dropout):
        return _attend_at_once(query, key, value, boundaries, longest, scaling, window), None
    masks = _masks(lengths, window, distances, query.device)
    parts = (torch.split(t, lengths, dim=2) for t in (query, key, value))
    outputs = [
        _attend(q, k, v, dropout, scaling, mask)
        for q, k, v, mask in zip(*parts, masks, strict=True)
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2), None


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout: float,
    scaling: float | None,
    mask: Tensor | None,
) -> Tensor:
    """Attend within one sequence, causally or by its mask."""
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _masks(
    lengths: list[int], window: int, distances: list[Tensor] | None, device: torch.device
) -> list[Tensor | None]:
    """Make the mask of each sequence or group; None is causal."""
    if distances is not None:
        return [(far >= 0) & (far < window) if window else far >= 0 for far in distances]
    band = _band(max(lengths), window, device) if window else None
    return [band[:n, :n] if band is not None and n > window else None for n in lengths]


def _band(length: int, window: int, device: torch.device) -> Tensor:
    """Mask that lets a token attend to itself and the `window - 1` tokens before it."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril_().triu_(1 - window)


def _has_kernel(query: Tensor, dropout: float) -> bool:
    """Check whether torch's kernel for sequences of varying lengths supports these inputs."""
    return (
        varlen_attn is not None
        and query.is_cuda
        and _kernel_dtype(query) in {torch.bfloat16, torch.float16}
        and dropout == 0
        and query.shape[-1] % 8 == 0
        and query.shape[-1] <= 256
        and torch.cuda.get_device_capability(query.device) >= (8, 0)
    )


def _kernel_dtype(query: Tensor) -> torch.dtype:
    """Return the type to which autocast converts inputs of `scaled_dot_product_attention`."""
    if torch.is_autocast_enabled(query.device.type):
        return torch.get_autocast_dtype(query.device.type)
    return query.dtype


def _attend_at_once(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    boundaries: Tensor,
    longest: int,
    scaling: float | None,
    window: int = 0,
) -> Tensor:
    """Attend causally within all sequences in one call, within a window if there is one.

    Shapes are `(1, heads, tokens, size) -> (1, tokens, heads, size)`.
    """
    dtype = _kernel_dtype(query)
    rows = [t.squeeze(0).transpose(0, 1).to(dtype).contiguous() for t in (query, key, value)]
    output = varlen_attn(
        *rows,
        boundaries,
        boundaries,
        longest,
        longest,
        scale=scaling,
        window_size=(window - 1, 0),  # causal: all tokens before, or as many
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return output.unsqueeze(0)


AttentionInterface.register(ATTENTION, packed_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
