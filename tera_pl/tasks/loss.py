"""The loss of a causal language model, without work for padding and unsupervised tokens."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tera_pl.models.packed_attention import pack

IGNORED = -100


def prepare(batch: Mapping[str, Tensor], *, packed: bool) -> dict[str, Any]:
    """Compute on the host the indices that the loss of a batch needs.

    On an accelerator every read of a value waits for all queued work.

    Args:
        batch: `input_ids`, `attention_mask` and `labels`, each `(batch, length)`, on the CPU;
            labels of `IGNORED` are not supervised.
        packed: Whether to remove the padding; see `tera_pl.models.packed_attention`.

    Returns:
        The `inputs` of the model; `rows` and `columns` of the positions whose next token is
        supervised, and these tokens, `targets`, each of shape `(supervised tokens,)`; and the
        `length` of a row in tokens.
    """
    # No position predicts the first label.
    following = F.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)
    inputs: dict[str, Any] = {key: batch[key] for key in ("input_ids", "attention_mask")}
    if packed:
        following = following[inputs["attention_mask"].bool()].unsqueeze(0)
        inputs = pack(inputs)
    rows, columns = (following != IGNORED).nonzero(as_tuple=True)
    return {
        "inputs": inputs,
        "rows": rows,
        "columns": columns,
        "targets": following[rows, columns],
        "length": following.shape[1],
    }


def supervised_loss(model: nn.Module, prepared: Mapping[str, Any]) -> tuple[Tensor, int]:
    """Compute the mean cross-entropy of the supervised tokens, with logits for them only.

    On Commonsense170k about one token in twelve is supervised, and the logits of Llama-3 are
    128,256 values per token.

    Args:
        model: A causal language model of transformers, adapted by PEFT or not.
        prepared: The result of `prepare`, on the device of the model.

    Returns:
        The loss in nats, in float32, and the number of supervised tokens.
    """
    targets = prepared["targets"]
    return F.cross_entropy(_logits(model, prepared), targets), len(targets)


def row_losses(model: nn.Module, prepared: Mapping[str, Any], labels: Tensor) -> list[Tensor]:
    """Compute the cross-entropy of every supervised token, row by row of a batch.

    Args:
        model: A causal language model of transformers, adapted by PEFT or not.
        prepared: The result of `prepare`, on the device of the model.
        labels: The labels of the batch, `(batch, length)`, on the CPU.

    Returns:
        Per row the losses of its supervised tokens in nats, float32, on the CPU; empty for a row
        without such tokens.
    """
    losses = F.cross_entropy(_logits(model, prepared), prepared["targets"], reduction="none")
    # The targets are in the order of rows, with padding and without.
    counts = (labels[:, 1:] != IGNORED).sum(1)
    return list(torch.split(losses.cpu(), counts.tolist()))


def _logits(model: nn.Module, prepared: Mapping[str, Any]) -> Tensor:
    """Compute the logits that predict the targets: `(supervised tokens, vocabulary)`, float32."""
    with _logits_at(model, prepared["rows"], prepared["columns"], prepared["length"]):
        # The key-value cache would copy keys and values of every layer.
        logits: Tensor = model(**prepared["inputs"], use_cache=False).logits
    return logits.squeeze(0).float()


@contextmanager
def _logits_at(model: Any, rows: Tensor, columns: Tensor, length: int) -> Iterator[None]:
    """Compute the output layer at some positions only.

    Args:
        model: The model.
        rows: Rows of the positions.
        columns: Columns of the positions.
        length: Number of columns. Hidden states may be longer: prompt methods put virtual tokens
            before them.
    """

    def select(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden, *rest = args
        return (hidden[rows, columns + (hidden.shape[1] - length)].unsqueeze(0), *rest)

    hook = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        hook.remove()
