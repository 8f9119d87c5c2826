"""Private names of torch."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

__all__ = [
    "FUSED_ATTENTION",
    "FUSED_ATTENTION_BACKWARD",
    "ITEM",
    "LAST_RATES",
    "TorchDispatchMode",
    "add_summary",
    "has_forward_hooks",
    "ignore_in_ddp",
    "inplace_version",
    "tree_leaves",
    "tree_map",
    "tree_map_only",
]

_ATEN = torch.ops.aten

# The kernel that keeps queries, keys, values, outputs and one float32 per row for backward.
FUSED_ATTENTION: Callable[..., Any] = _ATEN._scaled_dot_product_flash_attention_for_cpu
FUSED_ATTENTION_BACKWARD: Any = _ATEN._scaled_dot_product_flash_attention_for_cpu_backward
# What `Tensor.item()` dispatches to.
ITEM: Any = _ATEN._local_scalar_dense.default
# Key of the current learning rates in the state of every `LRScheduler`.
LAST_RATES = "_last_lr"


def ignore_in_ddp(module: nn.Module, names: Iterable[str]) -> None:
    """Exclude parameters and buffers from the broadcasts of DistributedDataParallel.

    Args:
        module: The module that DDP will wrap.
        names: Names of the parameters and buffers.
    """
    ignore: Any = DistributedDataParallel._set_params_and_buffers_to_ignore_for_model
    ignore(module, list(names))


def inplace_version(tensor: Tensor) -> int:
    """Read the counter that every in-place operation on a tensor increments.

    Args:
        tensor: A tensor that was not created in inference mode.

    Returns:
        The counter.
    """
    return tensor._version


def has_forward_hooks(module: nn.Module) -> bool:
    """Check whether a call of a module also calls hooks.

    Args:
        module: The module.

    Returns:
        Whether it has forward hooks or forward pre-hooks.
    """
    return bool(module._forward_pre_hooks or module._forward_hooks)


def add_summary(writer: Any, summary: Any) -> None:
    """Write a summary protobuf, for which `SummaryWriter` has no public method.

    Args:
        writer: The `torch.utils.tensorboard.SummaryWriter`.
        summary: The summary.
    """
    writer._get_file_writer().add_summary(summary)
