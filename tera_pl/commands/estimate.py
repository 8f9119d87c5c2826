"""Tell what a run would take, from its configuration alone: numbers, bytes, memory and work."""

import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from tera_pl.adapters.caching import cache_delta_weights, clear_cached_delta_weights
from tera_pl.analysis import Ledger, bytes_of, count, count_flops, dry_generation, dry_run
from tera_pl.cli import ConfigurationCLI, build
from tera_pl.commands.arguments import Parser, positive
from tera_pl.errors import UserError
from tera_pl.models.backbone import (
    add_adapter,
    load_meta_model,
    prepare_training,
)
from tera_pl.models.packed_attention import ATTENTION
from tera_pl.tasks import CausalLMTask
from tera_pl.tasks.loss import IGNORED

GB = 10**9


def main(args: Sequence[str]) -> int:
    """Estimate what `fit` would take with the same configuration; no weights or data are read.

    Args:
        args: Arguments of the command; what is not its own is `fit`'s.

    Returns:
        0.

    Raises:
        UserError: If the configuration is none of a causal language model, its backbone has no
            `config.json` here, or batch and length are not in it.
    """
    parser = Parser(
        "estimate",
        main.__doc__,
        epilog="All other options are those of fit: --config and overrides.",
    )
    parser.add_argument("--batch", type=int, help="examples per batch, if other than configured")
    parser.add_argument("--length", type=int, help="tokens per example, if not the longest allowed")
    parser.add_argument(
        "--device_gb", type=positive, default=80, help="memory, 10^9 bytes (%(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    options, rest = parser.parse_known_args(args)
    logging.getLogger("lightning.fabric.utilities.seed").setLevel(logging.WARNING)
    cli = build(ConfigurationCLI, ["fit", *rest])
    if not isinstance(cli.model, CausalLMTask):
        raise UserError(
            f"model.class_path: {type(cli.model).__name__} cannot be estimated: expected "
            "tera_pl.tasks.CausalLMTask"
        )
    batch = _longest_batch(cli.datamodule, options.batch, options.length)
    found = estimate(cli.model, cli.trainer_settings, batch)
    found["validation"] = estimate_validation(
        cli.model, cli.datamodule, batch["input_ids"].shape[1], found["memory_bytes"]
    )
    found["device_bytes"] = int(options.device_gb * GB)
    needed = [found["memory_bytes"]["total"], found["validation"]["memory_bytes"]["total"]]
    found["fits"] = max(needed) <= found["device_bytes"]
    sys.stdout.write((json.dumps(found, indent=2) if options.json else as_table(found)) + "\n")
    return 0


def estimate(
    task: CausalLMTask, trainer: dict[str, Any], batch: dict[str, Tensor]
) -> dict[str, Any]:
    """Count a run's numbers and take its training step on the meta device.

    Memory is that of one device at the worst moment of a step: weights as they are held, and what
    `tera_pl.analysis.dry_run` finds alive beside them. What weights in parts (FSDP) would save is
    not in it.

    Floating-point operations are those of forward and backward, 2 m n k for a product of matrices,
    causal attention in full, what checkpointing computes again included. Those of the base are of
    the frozen base, through which gradients flow without one for any weight.

    Args:
        task: The task; its `model` is set.
        trainer: Settings of the trainer.
        batch: `input_ids`, `attention_mask` and `labels` of a batch.

    Returns:
        `counts` as in `tera_pl.analysis.Counts`; `disk_bytes` of base, adapter and checkpoint
        (trained tensors and the optimizer's); `memory_bytes` by part and in total;
        `flops_per_token` of the base and of the adapted model; the batch's sizes.
    """
    autocast = _autocast_dtype(trainer["precision"], task)
    base = _load(task)
    base_bytes = bytes_of(base.parameters())
    model = base if task.adapter is None else add_adapter(base, task.adapter)
    task.model = prepare_training(model, task.backbone)
    counts = count(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = task.optimizer(trained)
    if trainer["accelerator"] != "cpu":
        _take_all_at_once(optimizer)
    usage = dry_run(
        model,
        optimizer,
        lambda: task.compute_loss(batch)[0],
        accumulates=trainer["accumulate_grad_batches"] > 1,
        autocast=autocast,
    )
    optimizer.zero_grad()
    state = [t for t in tree_leaves(list(optimizer.state.values())) if isinstance(t, Tensor)]
    adapter_bytes = 0 if task.adapter is None else bytes_of(trained)
    memory = {
        "base": base_bytes,
        "adapter": adapter_bytes,
        "frozen_adapter": counts.frozen_adapter_bytes,
        **usage.memory,
    }
    tokens = batch["input_ids"].numel()
    return {
        "backbone": task.backbone.path,
        "adapter": None if task.adapter is None else type(task.adapter).__name__,
        "batch_size": len(batch["input_ids"]),
        "length": batch["input_ids"].shape[1],
        "supervised_length": int((batch["labels"][0] != IGNORED).sum()),
        "counts": asdict(counts),
        "disk_bytes": {
            "base": base_bytes,
            "adapter": counts.stored_bytes,
            "checkpoint": bytes_of(trained) + bytes_of(state),
        },
        "memory_bytes": memory | {"total": sum(memory.values())},
        "flops_per_token": {
            "base": _frozen_base_flops(task, batch) / tokens,
            "adapted": usage.flops / tokens,
        },
    }


def estimate_validation(
    task: CausalLMTask, data: Any, length: int, memory: dict[str, int]
) -> dict[str, Any]:
    """Estimate the memory of generated answers, in validation or, without a metric there, the test.

    Weights, gradients and the state of the optimizer stay where they are during validation; a test
    in a process of its own has the weights alone. The loss of the validation batch is not in it: it
    takes less than a training step where batches are alike.

    Args:
        task: The task after `estimate`; its `model` is set.
        data: The datamodule.
        length: Tokens of the longest prompt, where the datamodule has no limit of its own.
        memory: Of training, by part.

    Returns:
        `stage`, which generates; `prompts`, `beams`, `prompt_length` and `new_tokens`; and
        `memory_bytes` by part and in total: `weights`, `training` (gradients and optimizer),
        `held_updates`, `cache` and `activations`.
    """
    model, settings = task.model.eval(), task.generation
    in_validation = task.generate_in_validation and task.metric is not None
    encoding = getattr(data, "encoding", None)
    prompt_length = getattr(encoding, "max_eval_prompt_length", None) or length
    prompts = getattr(data, "eval_batch_size", None) or 1
    plain = model if task.adapter is None else model.get_base_model()
    # Prompt methods put their own tokens before those.
    virtual = getattr(task.adapter, "num_virtual_tokens", None) or 0
    held = Ledger(vocab_size=0)
    with held:
        cache_delta_weights(model)
    held_bytes = held.live_bytes()
    usage = dry_generation(
        plain, prompts, settings.num_beams, prompt_length + virtual, settings.max_new_tokens
    )
    clear_cached_delta_weights(model)
    kept = ("gradients", "optimizer") if in_validation else ()
    weights = sum(memory[part] for part in ("base", "adapter", "frozen_adapter"))
    parts = {
        "weights": weights,
        "training": sum(memory[part] for part in kept),
        "held_updates": held_bytes,
        "cache": usage.cache,
        "activations": usage.activations,
    }
    return {
        "stage": "validation" if in_validation else "test",
        "prompts": prompts,
        "beams": settings.num_beams,
        "prompt_length": prompt_length,
        "new_tokens": settings.max_new_tokens,
        "memory_bytes": parts | {"total": sum(parts.values())},
    }


def as_table(found: dict[str, Any]) -> str:
    """Lay an estimate out to be read.

    Args:
        found: What `estimate` gives, with `device_bytes` and `fits`.

    Returns:
        Lines of text.
    """
    validation = found["validation"]
    counts, memory, flops = found["counts"], found["memory_bytes"], found["flops_per_token"]
    of_trained = [f"{counts[f'trained_{kind}']:,} {kind}" for kind in ("norms", "biases")]
    sections = {
        f"{found['adapter'] or 'full fine-tuning'} on {found['backbone']}": {},
        "numbers": {
            "frozen, base": f"{counts['base']:,}",
            "frozen, adapter": f"{counts['frozen_adapter']:,}",
            "trained": f"{counts['trained']:,}   ({counts['trained_percent']:.4f} %; "
            f"of them {', '.join(of_trained)})",
            "stored": f"{counts['stored']:,}",
        },
        "bytes on disk": {key: f"{value:,}" for key, value in found["disk_bytes"].items()},
        f"memory at the worst moment of a step, GB (10^9 bytes): {found['batch_size']} x "
        f"{found['length']} tokens, {found['supervised_length']} of {found['length']} learnt": {
            key.replace("_", " "): f"{value / GB:.3f}" for key, value in memory.items()
        },
        f"memory in the {validation['stage']}, GB: {validation['prompts']} prompts x "
        f"{validation['beams']} beams x ({validation['prompt_length']} + "
        f"{validation['new_tokens']}) tokens": {
            key.replace("_", " "): f"{value / GB:.3f}"
            for key, value in validation["memory_bytes"].items()
        },
        "forward and backward, GFLOP per token": {
            "base, frozen": f"{flops['base'] / GB:.3f}",
            "as configured": f"{flops['adapted'] / GB:.3f}",
        },
    }
    lines = []
    for title, rows in sections.items():
        lines.append(title)
        lines += [f"  {key:<16}{value:>16}" for key, value in rows.items()]
    verdict = "fits" if found["fits"] else "DOES NOT FIT"
    return "\n".join([*lines, f"{verdict} into {found['device_bytes'] / GB:g} GB"])


def _load(task: CausalLMTask) -> Any:
    """The backbone without its adapter, on the meta device."""
    model = load_meta_model(task.backbone)
    # Other kernels, which may be missing here, keep what `sdpa` keeps.
    if task.backbone.attn_implementation in {"eager", ATTENTION}:
        model.set_attn_implementation(task.backbone.attn_implementation)
    return model


def _frozen_base_flops(task: CausalLMTask, batch: dict[str, Tensor]) -> int:
    model = _load(task).requires_grad_(False)
    model.enable_input_require_grads()
    adapted, task.model = task.model, prepare_training(model, task.backbone)
    flops = count_flops(lambda: task.compute_loss(batch)[0])
    task.model = adapted
    return flops


def _take_all_at_once(optimizer: torch.optim.Optimizer) -> None:
    """Let the optimizer step as torch has it on accelerators: faster, with a copy of all numbers.

    On other devices, the meta device too, it takes one tensor after the other.
    """
    for group in optimizer.param_groups:
        if "foreach" in group and group["foreach"] is None and not group.get("fused"):
            group["foreach"] = True


def _autocast_dtype(precision: Any, task: CausalLMTask) -> torch.dtype | None:
    """Type of the products, where it is not that of the weights."""
    if precision in {None, "32-true", "32", 32}:
        return None
    if precision == "bf16-mixed" and task.adapter is None:
        return torch.bfloat16
    raise UserError(
        f"trainer.precision is {precision}: estimate knows 32-true, with the type of the base in "
        "model.init_args.backbone.dtype, and bf16-mixed for full fine-tuning"
    )


def _longest_batch(data: Any, batch_size: int | None, length: int | None) -> dict[str, Tensor]:
    """A training batch as large as the configuration allows.

    Where only responses are learnt and nothing limits them, all tokens are taken to be learnt.
    """
    encoding = getattr(data, "encoding", None)
    length = getattr(encoding, "max_length", None) if length is None else length
    budget = getattr(data, "tokens_per_batch", None)
    if batch_size is None and budget is not None and length:
        batch_size = max(1, budget // length)
    batch_size = getattr(data, "batch_size", None) if batch_size is None else batch_size
    for name, value in (("batch", batch_size), ("length", length)):
        if value is None:
            raise UserError(f"--{name}: {type(data).__name__} does not tell it: expected a number")
        if value < 1:
            raise UserError(f"--{name} is {value}: expected at least 1")
    assert batch_size is not None
    assert length is not None
    longest = getattr(encoding, "max_response_length", None)
    learnt = length
    if longest is not None and getattr(encoding, "loss_on", None) == "response":
        learnt = min(length, longest)
    tokens = torch.zeros(batch_size, length, dtype=torch.long)
    labels = tokens.clone()
    labels[:, : length - learnt] = IGNORED
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": labels}
