"""Parameters, disk space, peak memory and FLOPs of a training step on the meta device."""

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tera_pl.adapters.quantized import bytes_of_scales
from tera_pl.analysis import Counts, Usage, bytes_of, count, count_flops, dry_run
from tera_pl.contracts import complete
from tera_pl.errors import UserError
from tera_pl.models.attention import choose_attention
from tera_pl.models.backbone import add_adapter, load_meta_model, prepare_training
from tera_pl.models.packed_attention import ATTENTION
from tera_pl.private_api.torch import tree_leaves
from tera_pl.tasks import CausalLMTask
from tera_pl.tasks.loss import IGNORED


def estimate_training(
    task: CausalLMTask, trainer: dict[str, Any], batch: dict[str, Tensor]
) -> dict[str, Any]:
    """Count the parameters of a run and take its training step on the meta device.

    Memory is that of one device at the peak of a step: weights in their types, and the tensors that
    `tera_pl.analysis.dry_run` finds alive beside them. Sharding of weights (FSDP2) is not included.

    FLOPs are those of forward and backward: 2 m n k for a matrix product, full causal attention,
    recomputation by gradient checkpointing included. Those of the base are of the frozen base,
    through which gradients flow without being computed for its weights.

    Args:
        task: The task; its `model` is set.
        trainer: Settings of the trainer.
        batch: `input_ids`, `attention_mask` and `labels`, each (batch, tokens).

    Returns:
        `counts` as in `tera_pl.analysis.Counts`; `disk_bytes` of base, adapter and checkpoint
        (trained tensors and optimizer state); `memory_bytes` by part and in total;
        `flops_per_token` of the base and of the adapted model; the batch's sizes.

    Raises:
        UserError: If the backbone has no `config.json` on this machine, or the precision cannot be
            estimated.
    """
    autocast = _autocast_dtype(trainer["precision"], task)
    base = _load_base(task)
    base_bytes = bytes_of(base.parameters()) + bytes_of_scales(base.modules())
    model = base if task.adapter is None else add_adapter(base, task.adapter)
    task.model = prepare_training(model, task.backbone)
    counts = count(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = task.optimizer(trained)
    if trainer["accelerator"] != "cpu":
        _use_foreach(optimizer)
    usage = dry_run(
        model,
        optimizer,
        lambda: task.compute_loss(batch)[0],
        accumulates=trainer["accumulate_grad_batches"] > 1,
        autocast=autocast,
    )
    optimizer.zero_grad()
    state = [t for t in tree_leaves(list(optimizer.state.values())) if isinstance(t, Tensor)]
    return {
        "backbone": task.backbone.path,
        "adapter": None if task.adapter is None else type(task.adapter).__name__,
        "batch_size": len(batch["input_ids"]),
        "length": batch["input_ids"].shape[1],
        "supervised_length": int((batch["labels"][0] != IGNORED).sum()),
        "counts": asdict(counts),
        "disk_bytes": {
            "base": _disk_bytes(task, base_bytes),
            "adapter": counts.stored_bytes,
            "checkpoint": bytes_of(trained) + bytes_of(state),
        },
        "memory_bytes": _memory(task, base_bytes, counts, usage, bytes_of(trained)),
        "flops_per_token": _flops_per_token(task, batch, usage),
    }


def _disk_bytes(task: CausalLMTask, base_bytes: int) -> int:
    """Bytes of the base in files, where it is not quantized yet."""
    if task.backbone.quantization is None:
        return base_bytes
    return bytes_of(load_meta_model(task.backbone, quantized=False).parameters())


def _memory(
    task: CausalLMTask, base_bytes: int, counts: Counts, usage: Usage, trained_bytes: int
) -> dict[str, int]:
    parts = {
        "base": base_bytes,
        "adapter": 0 if task.adapter is None else trained_bytes,
        "frozen_adapter": counts.frozen_adapter_bytes,
        **usage.memory,
    }
    return parts | {"total": sum(parts.values())}


def _flops_per_token(
    task: CausalLMTask, batch: dict[str, Tensor], usage: Usage
) -> dict[str, float]:
    base = _load_base(task).requires_grad_(False)
    base.enable_input_require_grads()
    adapted, task.model = task.model, prepare_training(base, task.backbone)
    base_flops = count_flops(lambda: task.compute_loss(batch)[0])
    task.model = adapted
    tokens = batch["input_ids"].numel()
    return {"base": base_flops / tokens, "adapted": usage.flops / tokens}


def _load_base(task: CausalLMTask) -> PreTrainedModel:
    """Build the backbone without its adapter on the meta device."""
    model = load_meta_model(task.backbone)
    backbone = task.backbone
    attention = choose_attention(
        backbone.attn_implementation, model.config, backbone.trust_remote_code
    )
    # Other kernels, which may not be installed here, keep what `sdpa` keeps for backward.
    if attention in {"eager", ATTENTION}:
        model.set_attn_implementation(attention)
    return model


def _use_foreach(optimizer: torch.optim.Optimizer) -> None:
    """Select the foreach implementation, torch's default on accelerators.

    It takes one step for all parameters at once, with a temporary copy of them; on the meta device
    torch would take one parameter after the other.
    """
    for group in optimizer.param_groups:
        if "foreach" in group and group["foreach"] is None and not group.get("fused"):
            group["foreach"] = True


def _autocast_dtype(precision: Any, task: CausalLMTask) -> torch.dtype | None:
    """Give the type of matrix products, where it is not that of the weights."""
    if precision in {None, "32-true", "32", 32}:
        return None
    if precision == "bf16-mixed" and task.adapter is None:
        return torch.bfloat16
    raise UserError(
        f"trainer.precision is {precision}: estimate supports 32-true, with the type of the base "
        "in model.init_args.backbone.dtype, and bf16-mixed for full fine-tuning"
    )


def longest_batch(data: Any, batch_size: int | None, length: int | None) -> dict[str, Tensor]:
    """Make the largest training batch that a configuration allows.

    Where responses alone are supervised but have no limit, all tokens count as supervised.

    Args:
        data: The datamodule.
        batch_size: Examples per batch; by default as configured.
        length: Tokens per example; by default the longest that the configuration allows.

    Returns:
        `input_ids`, `attention_mask` and `labels`, each (batch, tokens).

    Raises:
        UserError: If the datamodule does not give one of the sizes, or it is below 1.
    """
    settings = complete(data)
    encoding, budget = settings.encoding, settings.tokens_per_batch
    if length is None and encoding is not None:
        length = encoding.max_length
    if batch_size is None and budget is not None and length:
        batch_size = max(1, budget // length)
    batch_size = settings.batch_size if batch_size is None else batch_size
    for name, value in (("batch", batch_size), ("length", length)):
        if value is None:
            raise UserError(f"--{name}: {type(data).__name__} does not set it: expected a number")
        if value < 1:
            raise UserError(f"--{name} is {value}: expected at least 1")
    assert batch_size is not None
    assert length is not None
    supervised = length
    if encoding is not None and encoding.loss_on == "response":
        supervised = min(length, encoding.max_response_length or length)
    tokens = torch.zeros(batch_size, length, dtype=torch.long)
    labels = tokens.clone()
    labels[:, : length - supervised] = IGNORED
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": labels}
