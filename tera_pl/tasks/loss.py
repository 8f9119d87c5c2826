"""The loss of a causal language model, with work only for tokens that are there and learnt."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from tera_pl.packing import pack

IGNORED = -100


def supervised_loss(
    model: nn.Module, batch: Mapping[str, Tensor], *, packed: bool
) -> tuple[Tensor, int]:
    """Compute the mean cross-entropy of the supervised tokens, and logits for them only.

    On Commonsense170k about one token in twelve is supervised, and the logits of Llama-3 are
    128,256 numbers for each token.

    Args:
        model: A causal language model of transformers, adapted by PEFT or not.
        batch: `input_ids`, `attention_mask` and `labels`, each `(batch, length)`; labels of
            `IGNORED` are not supervised.
        packed: Whether to take the padding out; see `tera_pl.packing`.

    Returns:
        The loss in nats, in float32, and the number of supervised tokens.
    """
    # The first label has no position before it that could predict it.
    following = F.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)
    if packed:
        inputs = pack({key: batch[key] for key in ("input_ids", "attention_mask")})
        following = following[batch["attention_mask"].bool()].unsqueeze(0)
    else:
        inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    supervised = following != IGNORED
    with _logits_at(model, supervised):
        # The cache for generation would copy keys and values of every layer.
        logits = model(**inputs, use_cache=False).logits
    targets = following[supervised]
    return F.cross_entropy(logits.squeeze(0).float(), targets), len(targets)


@contextmanager
def _logits_at(model: Any, positions: Tensor) -> Iterator[None]:
    """Let the output layer see some positions only.

    Args:
        model: The model.
        positions: Boolean, of shape `(rows, length)`. Hidden states may be longer: prompt methods
            put tokens of their own in front.
    """
    rows, columns = positions.nonzero(as_tuple=True)

    def select(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden, *rest = args
        first = hidden.shape[1] - positions.shape[1]
        return (hidden[rows, columns + first].unsqueeze(0), *rest)

    hook = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        hook.remove()
