"""Share a frozen base among processes (FSDP2), with trained tensors whole in each.

Every process holds a part of each base weight; the parts of one decoder layer are gathered while
that layer computes. What an adapter trains is small: each process has all of it, and gradients are
averaged once before a step. Frozen tensors of an adapter are buffers, which FSDP2 leaves whole.
Outside of forward and backward a base weight is a `DTensor`; without an adapter, when every weight
is trained, so are the trained ones.
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
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel


def shard_model(model: nn.Module, mesh: DeviceMesh) -> None:
    """Share the weights of a model among processes, decoder layer by decoder layer.

    What a PEFT model trains stays whole in each process, and so do the embeddings of prompt
    methods, which read them outside of the model's forward. Of a model without an adapter every
    weight is shared.

    Args:
        model: The model, whole and the same in every process; changed in place.
        mesh: The processes, in one dimension.
    """
    base, kept = model, set()
    if isinstance(model, PeftModel):
        base = model.get_base_model()
        kept = {parameter for parameter in model.parameters() if parameter.requires_grad}
        if model.active_peft_config.is_prompt_learning:
            kept |= set(base.get_input_embeddings().parameters())
    assert isinstance(base, PreTrainedModel)
    names = set(base._no_split_modules or ())
    # Gathered again for backward, so that outside of both a weight is always in parts.
    settings: dict[str, Any] = {
        "mesh": mesh,
        "ignored_params": kept,
        "reshard_after_forward": True,
    }
    # A list first: a module that is sharded gets a class of its own.
    for layer in [module for module in base.modules() if type(module).__name__ in names]:
        fully_shard(layer, **settings)
    fully_shard(base, **settings)


def average_gradients(parameters: Iterable[nn.Parameter], mesh: DeviceMesh) -> None:
    """Average over processes the gradients of tensors that each has whole.

    Args:
        parameters: Trained tensors; FSDP2 has averaged the gradients of those in parts already.
        mesh: The processes, in one dimension.
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
    """Gather a tensor that is in parts; all processes must ask together.

    Args:
        value: A tensor, or anything else, which is given back as it is.

    Returns:
        A tensor with all values.
    """
    return value.full_tensor() if isinstance(value, DTensor) else value


def gather(model: nn.Module) -> dict[str, Any]:
    """Gather the state of a model, whole and on the CPU; all processes must call together.

    A weight that has two names, as where output layer and embedding are tied, stays one tensor.
    """
    gathered: dict[int, Any] = {}
    state = model.state_dict(keep_vars=True)
    for value in state.values():
        if id(value) not in gathered:
            gathered[id(value)] = full_tensor(value.detach()).cpu()
    return {name: gathered[id(value)] for name, value in state.items()}


def local_shard_like(value: Tensor, parameter: Tensor) -> Tensor:
    """Take the part of a whole tensor that this process has of a parameter.

    Args:
        value: The whole tensor, in every process.
        parameter: A tensor of the same shape, whole or in parts.

    Returns:
        The value, divided as the parameter is.
    """
    if not isinstance(parameter, DTensor):
        return value
    value = value.to(parameter.device)
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)


def load_trained(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy tensors into the parameters of a module, whole or in parts.

    Args:
        module: The module; all processes must call together.
        state: Whole tensors by the name of a parameter.
    """
    parameters = dict(module.named_parameters())
    with torch.no_grad():
        for name, value in state.items():
            parameters[name].copy_(local_shard_like(value, parameters[name]))


def ignore_frozen_in_ddp(module: nn.Module) -> None:
    """Tell DDP to leave frozen weights and all buffers alone.

    DDP would send every weight of the base once and every buffer before each step, although each
    process loads or draws the same.

    Args:
        module: What DDP will wrap.
    """
    names = [name for name, p in module.named_parameters() if not p.requires_grad]
    names += [name for name, _ in module.named_buffers(remove_duplicate=False)]
    ignore: Any = DistributedDataParallel._set_params_and_buffers_to_ignore_for_model
    ignore(module, names)


def any_rank(answer: bool, device: torch.device) -> bool:
    """Ask all processes; those in a run of one process ask only themselves.

    Args:
        answer: What this one says.
        device: Where the backend of the processes communicates.

    Returns:
        Whether one of them says yes.
    """
    if not dist.is_initialized():
        return answer
    answers = torch.tensor(float(answer), device=device)
    dist.all_reduce(answers, op=dist.ReduceOp.MAX)
    return bool(answers)
