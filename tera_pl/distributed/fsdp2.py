"""Shard a frozen base model over processes (FSDP2), with replicated trainable parameters.

Every process holds a local shard of each base weight; the shards of one decoder layer are gathered
while that layer computes. The trainable parameters of an adapter are small: each process holds the
full tensors, and gradients are averaged once before a step. Frozen tensors of an adapter are
buffers, which FSDP2 does not shard. Outside of forward and backward a base weight is a `DTensor`.
Without an adapter every weight is trainable, and sharded.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from tera_pl.private_api.torch import ignore_in_ddp
from tera_pl.private_api.transformers import unsplit_modules


def shard_model(model: nn.Module, mesh: DeviceMesh) -> None:
    """Shard the weights of a model over processes, decoder layer by decoder layer.

    The trainable parameters of a PEFT model are replicated, and so are the embeddings of prompt
    methods, which read them outside of the model's forward. Of a model without an adapter every
    weight is sharded.

    Args:
        model: The model with full tensors, equal in every process; changed in place.
        mesh: One-dimensional mesh of the processes.
    """
    base, kept = model, set()
    if isinstance(model, PeftModel):
        base = model.get_base_model()
        kept = {parameter for parameter in model.parameters() if parameter.requires_grad}
        if model.active_peft_config.is_prompt_learning:
            kept |= set(base.get_input_embeddings().parameters())
    assert isinstance(base, PreTrainedModel)
    names = unsplit_modules(base)
    # Gathered again for backward, so that outside of both a weight is always sharded.
    settings: dict[str, Any] = {
        "mesh": mesh,
        "ignored_params": kept,
        "reshard_after_forward": True,
    }
    # A list first: `fully_shard` changes the class of a module.
    for layer in [module for module in base.modules() if type(module).__name__ in names]:
        fully_shard(layer, **settings)
    fully_shard(base, **settings)


def average_gradients(parameters: Iterable[nn.Parameter], mesh: DeviceMesh) -> None:
    """Average the gradients of replicated parameters over processes.

    Args:
        parameters: Trainable parameters; FSDP2 averages the gradients of sharded ones itself.
        mesh: One-dimensional mesh of the processes.
    """
    found = [p.grad for p in parameters if p.grad is not None and not isinstance(p.grad, DTensor)]
    for dtype in sorted({grad.dtype for grad in found}, key=str):
        grads = [grad for grad in found if grad.dtype == dtype]
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        dist.all_reduce(flat, group=mesh.get_group())
        flat /= mesh.size()
        for grad, part in zip(grads, torch.split(flat, [g.numel() for g in grads]), strict=True):
            grad.copy_(part.view_as(grad))


def full_tensor(value: Any) -> Any:
    """Gather the shards of a `DTensor`; a collective call of all processes.

    Args:
        value: A `DTensor`, or any other value.

    Returns:
        The full tensor; other values unchanged.
    """
    return value.full_tensor() if isinstance(value, DTensor) else value


def gather(model: nn.Module) -> dict[str, Any]:
    """Gather the state dict of a model with full tensors on the CPU; a collective call.

    Tied weights, such as output layer and embedding, stay one tensor.
    """
    gathered: dict[int, Any] = {}
    state = model.state_dict(keep_vars=True)
    for value in state.values():
        if id(value) not in gathered:
            gathered[id(value)] = full_tensor(value.detach()).cpu()
    return {name: gathered[id(value)] for name, value in state.items()}


def local_shard_like(value: Tensor, parameter: Tensor) -> Tensor:
    """Shard a full tensor as a parameter is sharded.

    Args:
        value: The full tensor, in every process.
        parameter: A tensor of the same shape, replicated or sharded.

    Returns:
        The value with the placements of the parameter.
    """
    if not isinstance(parameter, DTensor):
        return value
    value = value.to(parameter.device)
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)


def load_trained(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy full tensors into replicated or sharded parameters; a collective call.

    Args:
        module: The module.
        state: Full tensors by the name of a parameter.
    """
    parameters = dict(module.named_parameters())
    with torch.no_grad():
        for name, value in state.items():
            parameters[name].copy_(local_shard_like(value, parameters[name]))


def ignore_frozen_in_ddp(module: nn.Module) -> None:
    """Exclude frozen weights and all buffers from DDP's broadcasts.

    DDP would broadcast every base weight once and every buffer before each step, although each
    process loads or draws the same values.

    Args:
        module: The module that DDP will wrap.
    """
    names = [name for name, p in module.named_parameters() if not p.requires_grad]
    names += [name for name, _ in module.named_buffers(remove_duplicate=False)]
    ignore_in_ddp(module, names)


def any_rank(answer: bool, device: torch.device) -> bool:
    """Check whether a condition is true on any rank; a collective call of several processes.

    Args:
        answer: The condition on this rank.
        device: Device on which the backend of the processes communicates.

    Returns:
        Whether it is true on at least one rank.
    """
    if not dist.is_initialized():
        return answer
    answers = torch.tensor(float(answer), device=device)
    dist.all_reduce(answers, op=dist.ReduceOp.MAX)
    return bool(answers)
