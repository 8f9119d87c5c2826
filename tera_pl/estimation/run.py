"""Estimate a run: its training step and its generation, and whether both fit into memory."""

from typing import Any

from tera_pl.adapters.supported import is_from_meta
from tera_pl.errors import UserError
from tera_pl.estimation.generation import estimate_generation
from tera_pl.estimation.training import estimate_training, longest_batch
from tera_pl.tasks import CausalLMTask


def estimate_run(
    task: Any,
    data: Any,
    trainer: dict[str, Any],
    device_bytes: int,
    *,
    batch_size: int | None = None,
    length: int | None = None,
) -> dict[str, Any]:
    """Estimate what `fit` takes on one device.

    Args:
        task: The task of a configuration; its `model` is set.
        data: The datamodule of the configuration.
        trainer: Settings of the trainer.
        device_bytes: Memory of the device.
        batch_size: Examples per batch; by default as configured.
        length: Tokens per example; by default the longest that the configuration allows.

    Returns:
        The result of `estimate_training`, with that of `estimate_generation` as `validation` (None
        where candidates are scored, whose memory is not estimated), `device_bytes`, and `fits`:
        whether the larger peak is at most that.

    Raises:
        UserError: If the task is not a `CausalLMTask`, its backbone has no `config.json` on this
            machine, its adapter needs the values of weights, or the configuration does not give
            batch size and length.
    """
    if not isinstance(task, CausalLMTask):
        raise UserError(
            f"model.class_path: {type(task).__name__} cannot be estimated: expected "
            "tera_pl.tasks.CausalLMTask"
        )
    batch = longest_batch(data, batch_size, length)
    try:
        found = estimate_training(task, trainer, batch)
        memory = found["memory_bytes"]
        generation, peak = None, memory["total"]
        if not task.scores_candidates():
            generation = estimate_generation(task, data, batch["input_ids"].shape[1], memory)
            peak = max(peak, generation["memory_bytes"]["total"])
    except NotImplementedError as error:
        if task.adapter is None or not is_from_meta(error, task.model):
            raise
        raise UserError(
            f"model.init_args.adapter: {type(task.adapter).__name__} cannot be estimated, because "
            "its layers or the backbone's compute with values, and estimate has only shapes: run a "
            "few steps of fit, whose results.json has parameters and peak memory"
        ) from error
    return found | {
        "validation": generation,
        "device_bytes": device_bytes,
        "fits": peak <= device_bytes,
    }
