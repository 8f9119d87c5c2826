"""One training step without data: memory and FLOPs from shapes alone.

The model's own code runs on the meta device, where a tensor has a shape and no memory. Every tensor
that is created is entered into a ledger with its bytes and removed when it dies, as by a real
allocator: what autograd saves, what checkpointing computes again, both copies of the logits.
Floating-point operations are counted by torch's own formulas: 2 m n k for a product of (m, k) and
(k, n); elementwise operations are not counted.
"""

import math
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from tera_pl.private_api.torch import (
    FUSED_ATTENTION,
    FUSED_ATTENTION_BACKWARD,
    ITEM,
    TorchDispatchMode,
    tree_leaves,
    tree_map_only,
)


@dataclass(frozen=True)
class Usage:
    """Memory and FLOPs of a training step.

    Args:
        memory: Bytes at the peak of the second step, by part: `activations`, `logits` (in every
            copy: the model's, the float32 one of the loss, its softmax, their gradients),
            `gradients` and `optimizer` (its state, and what it needs for its step), without
            weights. In the forward pass the gradients of the previous step are still alive, as
            in Lightning.
        flops: Floating-point operations of forward and backward, recomputation included.
    """

    memory: dict[str, int]
    flops: int


def dry_run(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Callable[[], Tensor],
    *,
    accumulates: bool = False,
    autocast: torch.dtype | None = None,
) -> Usage:
    """Run two training steps on the meta device and measure the second.

    Fused attention is assumed to be the kernel that saves queries, keys, values, outputs and one
    float32 per row (Dao et al., 2022). Not included: the context of an accelerator, the work space
    of its libraries, fragmentation.

    Args:
        model: A causal language model, adapted or not, on the meta device and in training mode.
        optimizer: Optimizer of its trainable parameters.
        loss: Computes the loss of a batch with the model. The batch is on the CPU: its values can
            be read, and in operations with the model's tensors only its shape counts.
        accumulates: Whether gradients of several batches are summed, so that they stay alive.
        autocast: Dtype of the products of linear layers and attention, for a model without an
            adapter; null for the dtype of their weights.

    Returns:
        Memory and FLOPs.
    """
    ledger = Ledger(model.config.get_text_config().vocab_size)  # type: ignore[union-attr, operator]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    hooks = [
        p.register_post_accumulate_grad_hook(lambda p: ledger.name([p.grad], "gradients"))
        for p in parameters
    ]
    counter = _flop_counter()
    casts = _Casts(autocast)
    with fused_attention(casts), casts, ledger:
        # Optimizers create their state in the first step. The counter would keep tensors alive.
        for context in (counter, nullcontext()):
            ledger.forget_peak()
            with context:
                with casts.cached():
                    value = loss()
                if not accumulates:
                    optimizer.zero_grad()
                value.backward()  # type: ignore[no-untyped-call]
            del value
            ledger.part = "optimizer"
            optimizer.step()
            ledger.part = "activations"
    for hook in hooks:
        hook.remove()
    return Usage({part: ledger.peak[part] for part in PARTS}, counter.get_total_flops())


def count_flops(loss: Callable[[], Tensor]) -> int:
    """Count the FLOPs of a forward and backward pass on the meta device.

    Args:
        loss: As in `dry_run`. Something in the model, or its embeddings, must require a gradient.

    Returns:
        Floating-point operations.
    """
    with fused_attention(), Ledger(0), _flop_counter() as counter:
        loss().backward()  # type: ignore[no-untyped-call]
    return counter.get_total_flops()


PARTS = ("activations", "logits", "gradients", "optimizer")


class Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes that are alive on the meta device, now and at the peak.

    Args:
        vocab_size: Tensors with this number of columns are logits.
    """

    def __init__(self, vocab_size: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak: Counter[str] = Counter()
        self.part = "activations"  # of new tensors
        self._vocab_size = vocab_size
        self._live: dict[int, tuple[str, int]] = {}
        self._now: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is ITEM and args[0].is_meta:
            return 0  # whether the mask is all ones: assume padding
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        tensors = [t for t in given if t.is_meta]
        # A tensor of the batch that is combined with one has only a shape from here on.
        if 0 < len(tensors) < len(given):
            args, kwargs = tree_map_only(Tensor, _to_meta, (args, kwargs))
        before = {id(t.untyped_storage()) for t in tensors}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if _is_meta(tensor) and id(tensor.untyped_storage()) not in before:
                self._enter(tensor)
        return result

    def name(self, tensors: Iterable[Any], part: str) -> None:
        """Assign tensors to a part."""
        for tensor in tensors:
            key = id(tensor.untyped_storage()) if _is_meta(tensor) else None
            if key in self._live:
                assert key is not None
                old, size = self._live[key]
                self._now[old] -= size
                self._now[part] += size
                self._live[key] = (part, size)

    def forget_peak(self) -> None:
        """Start a new search for the peak."""
        self.peak = self._now.copy()

    def live_bytes(self) -> int:
        """Sum the bytes that are alive now."""
        return self._now.total()

    def _enter(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = id(storage)
        if key in self._live:
            return
        logits = self.part == "activations" and tensor.shape[-1:] == (self._vocab_size,)
        part = "logits" if logits else self.part
        self._live[key] = (part, storage.nbytes())
        weakref.finalize(storage, self._leave, key)
        self._now[part] += storage.nbytes()
        if self._now.total() > self.peak.total():
            self.peak = self._now.copy()

    def _leave(self, key: int) -> None:
        part, size = self._live.pop(key)
        self._now[part] -= size


def _to_meta(tensor: Tensor) -> Tensor:
    return tensor if tensor.is_meta else tensor.to("meta")


def _is_meta(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_meta


class _Casts:
    """What autocast does to linear layers and attention; it does not support the meta device.

    Args:
        dtype: Dtype of their inputs, or null for no casts.
    """

    def __init__(self, dtype: torch.dtype | None) -> None:
        self._dtype = dtype
        self._linear = F.linear
        # Cached as by autocast, until the end of the forward pass.
        self._weights: dict[int, Tensor] | None = None

    def __enter__(self) -> None:
        if self._dtype is not None:
            F.linear = self._cast_linear  # type: ignore[assignment]

    def __exit__(self, *args: Any) -> None:
        F.linear = self._linear

    @contextmanager
    def cached(self) -> Iterator[None]:
        """Cache the casts of weights."""
        self._weights = {}
        yield
        self._weights = None

    def cast(self, tensor: Tensor) -> Tensor:
        """Cast a tensor to the dtype of the products."""
        return tensor if self._dtype is None else tensor.to(self._dtype)

    def _cast_linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        cast = self.cast(weight) if self._weights is None else self._weights.get(id(weight))
        if cast is None:
            cast = self.cast(weight)
            assert self._weights is not None
            self._weights[id(weight)] = cast
        return self._linear(self.cast(x), cast, None if bias is None else self.cast(bias))


@contextmanager
def fused_attention(casts: _Casts | None = None) -> Iterator[None]:
    """Replace the unfused formula that the meta device would use by the fused kernel.

    Args:
        casts: What autocast does to its inputs.
    """

    def attention(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if casts is not None:
            query, key, value = (casts.cast(tensor) for tensor in (query, key, value))
        return _attention(query, key, value, *args, **kwargs)

    # Not a TorchFunctionMode: it is off in backward, where checkpointing runs layers again.
    replaced = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        F.scaled_dot_product_attention = replaced


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    # The kernel itself shares keys and values among the heads of a group.
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(~attn_mask, 0)
    outputs = FUSED_ATTENTION(
        query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale
    )
    return outputs[0]


def _flop_counter() -> FlopCounterMode:
    formulas: dict[Any, Any] = {
        FUSED_ATTENTION: _attention_flops,
        FUSED_ATTENTION_BACKWARD: _attention_backward_flops,
        **_quantized_products(),
    }
    return FlopCounterMode(display=False, custom_mapping=formulas)


def _quantized_products() -> dict[Any, Any]:
    """Formulas for the products of bitsandbytes, which torch does not know."""
    if "bitsandbytes" not in sys.modules:
        return {}
    library = torch.ops.bitsandbytes
    return {
        library.gemm_4bit: lambda x, _, weight, *__, **___: 2 * math.prod(x) * weight[0],
        library.int8_scaled_mm: lambda x, weight, *_, **__: 2 * math.prod(x) * weight[0],
    }


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, *_per_head(query, key, value))  # type: ignore[no-untyped-call]


def _attention_backward_flops(
    grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any
) -> int:
    per_head = _per_head(query, key, value)
    return sdpa_backward_flop_count(grad, query, *per_head)  # type: ignore[no-untyped-call]


def _per_head(query: Any, *shapes: Any) -> list[tuple[int, ...]]:
    """Shapes of keys and values as if every query head had its own."""
    return [(*shape[:-3], query[-3], *shape[-2:]) for shape in shapes]
