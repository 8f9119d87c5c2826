"""The loss of a causal language model, with work only for tokens that are there and supervised."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from tera_pl.models.packed_attention import pack

IGNORED = -100


def prepare(batch: Mapping[str, Tensor], *, packed: bool) -> dict[str, Any]:
    """Find out on the host what the loss of a batch needs to know of its values.

    On an accelerator every look at a value waits for all work that is queued there.

    Args:
        batch: `input_ids`, `attention_mask` and `labels`, each `(batch, length)`, on the CPU;
            labels of `IGNORED` are not supervised.
        packed: Whether to take the padding out; see `tera_pl.models.packed_attention`.

    Returns:
        The `inputs` of the model; `rows` and `columns` of the positions whose next token is
        supervised, and these tokens, `targets`, each of shape `(supervised tokens,)`; and the
        `length` of a row.
    """
    # The first label has no position before it that could predict it.
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
    """Compute the mean cross-entropy of the supervised tokens, and logits for them only.

    On Commonsense170k about one token in twelve is supervised, and the logits of Llama-3 are
    128,256 numbers for each token.

    Args:
        model: A causal language model of transformers, adapted by PEFT or not.
        prepared: What `prepare` gives, on the device of the model.

    Returns:
        The loss in nats, in float32, and the number of supervised tokens.
    """
    with _logits_at(model, prepared["rows"], prepared["columns"], prepared["length"]):
        # The cache for generation would copy keys and values of every layer.
        logits = model(**prepared["inputs"], use_cache=False).logits
    targets = prepared["targets"]
    return F.cross_entropy(logits.squeeze(0).float(), targets), len(targets)


@contextmanager
def _logits_at(model: Any, rows: Tensor, columns: Tensor, length: int) -> Iterator[None]:
    """Let the output layer see some positions only.

    Args:
        model: The model.
        rows: Of the positions.
        columns: Of the positions.
        length: Number of columns. Hidden states may be longer: prompt methods put tokens of their
            own in front.
    """

    def select(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden, *rest = args
        return (hidden[rows, columns + (hidden.shape[1] - length)].unsqueeze(0), *rest)

    hook = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        hook.remove()
