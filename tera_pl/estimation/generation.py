"""Peak memory of generated answers, on the meta device."""

from typing import Any

from tera_pl.adapters.caching import cache_delta_weights, clear_cached_delta_weights
from tera_pl.analysis import Ledger, dry_generation
from tera_pl.contracts import complete
from tera_pl.tasks import CausalLMTask


def estimate_generation(
    task: CausalLMTask, data: Any, length: int, memory: dict[str, int]
) -> dict[str, Any]:
    """Estimate the memory of generation, in validation or, without a metric there, in the test.

    Weights, gradients and optimizer state stay in memory during validation; a test in a process of
    its own has the weights alone. The loss of a validation batch is not included: it takes less
    than a training step where batches are alike.

    Args:
        task: The task after `estimate_training`; its `model` is set.
        data: The datamodule.
        length: Tokens of the longest prompt, where the datamodule has no limit of its own.
        memory: Bytes of training, by part.

    Returns:
        `stage`, which generates; `prompts`, `beams`, `prompt_length` and `new_tokens`; and
        `memory_bytes` by part and in total: `weights`, `training` (gradients and optimizer),
        `cached_delta_weights`, `cache` (keys and values) and `activations`.
    """
    model, settings = task.model.eval(), task.generation
    in_validation = task.generate_in_validation and task.metric is not None
    data = complete(data)
    limit = data.encoding.max_eval_prompt_length if data.encoding is not None else None
    prompt_length, prompts = limit or length, data.eval_batch_size or 1
    plain = model if task.adapter is None else model.get_base_model()
    # Prompt methods put their own tokens before those.
    virtual = getattr(task.adapter, "num_virtual_tokens", None) or 0
    ledger = Ledger(vocab_size=0)
    with ledger:
        cache_delta_weights(model)
    delta_bytes = ledger.live_bytes()
    usage = dry_generation(
        plain, prompts, settings.num_beams, prompt_length + virtual, settings.max_new_tokens
    )
    clear_cached_delta_weights(model)
    kept = ("gradients", "optimizer") if in_validation else ()
    parts = {
        "weights": sum(memory[part] for part in ("base", "adapter", "frozen_adapter")),
        "training": sum(memory[part] for part in kept),
        "cached_delta_weights": delta_bytes,
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
