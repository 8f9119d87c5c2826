"""Export the checkpoint of a run as a folder for other programs."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from tera_pl.adapters.quantized import quantized_layers
from tera_pl.analysis.low_rank import check_convertible
from tera_pl.analysis.merging import check_mergeable
from tera_pl.checkpointing.atomic_writes import atomic_folder, check_target, write_atomically
from tera_pl.checkpointing.checkpoint_io import AtomicCheckpointIO
from tera_pl.checkpointing.trained_model import (
    TrainedModel,
    dequantize_base,
    load_trained_model,
)
from tera_pl.errors import UserError
from tera_pl.export.lora import LoraSettings, convert
from tera_pl.export.merged_model import comparison_prompts, compute_logits, write_merged
from tera_pl.export.model_card import write_card
from tera_pl.export.validation_loss import ValidationLoss
from tera_pl.reporting.result_files import read_results

KIND = "export"


def export_checkpoint(  # noqa: PLR0913 - each is an option of the command
    ckpt_path: Path,
    output: Path,
    *,
    backbone: str | None = None,
    trust_remote_code: bool = False,
    merge: bool = False,
    dequantize: bool = False,
    max_shard_size: str = "5GB",
    overwrite: bool = False,
    lora: LoraSettings | None = None,
) -> dict[str, Any]:
    """Write adapter or model, tokenizer and model card; the folder appears when it is complete.

    Args:
        ckpt_path: Checkpoint of a run.
        output: Folder to write, new or empty.
        backbone: Path of the base model, if it has moved since.
        trust_remote_code: Whether to run code that comes with the base model.
        merge: Whether to write a merged model instead of an adapter.
        dequantize: Whether to dequantize a quantized base before merging.
        max_shard_size: Size of the largest file of weights, for example `5GB`.
        overwrite: Whether to replace an earlier export at `output`.
        lora: How to convert the adapter to LoRA; None to keep its method.

    Returns:
        The content of `export_report.json`; empty if the adapter is written as it is.

    Raises:
        UserError: If the checkpoint is not one of a run, the output is not empty, or the adapter
            cannot be merged or converted.
        RunStoppedError: If the merged model differs by more than rounding; nothing is written.
    """
    check_target(output, KIND, replace=overwrite)
    # Resolved: of `version_0/../other.ckpt`, the results are not those of version_0.
    run = ckpt_path.resolve().parent.parent
    if not ckpt_path.is_file():
        raise UserError(f"--ckpt_path: no file {ckpt_path}: expected a .ckpt of a run")
    checkpoint = AtomicCheckpointIO().load_checkpoint(ckpt_path)
    check = check_mergeable if merge else check_convertible if lora else None
    validation = ValidationLoss(lora.config, backbone) if lora and lora.config else None
    # An adapter that cannot be merged or converted is refused before any weight is loaded.
    trained = load_trained_model(checkpoint, backbone, trust_remote_code, check, dequantize)
    if lora is not None and trained.adapter is None:
        raise UserError("--as lora: the run trained every weight and has no adapter to convert")
    results = read_results(run / "results.json")
    report = {} if lora is None else convert(trained, lora, validation)
    with atomic_folder(output, KIND, replace=overwrite) as folder:
        if merge and trained.adapter is not None:
            prompts = comparison_prompts(trained.tokenizer, run)
            logits = _dequantize(trained, checkpoint, prompts) if dequantize else None
            report = write_merged(trained, folder, prompts, max_shard_size, logits)
        else:
            trained.model.save_pretrained(folder, max_shard_size=max_shard_size)
        trained.tokenizer.save_pretrained(folder)
        write_card(folder, trained, run, results, report)
        if report:
            write_atomically(folder / "export_report.json", json.dumps(report, indent=2) + "\n")
    return report


def _dequantize(
    trained: TrainedModel, checkpoint: Mapping[str, Any], prompts: list[Tensor]
) -> list[Tensor] | None:
    """Dequantize the base of a model; give the logits before, or None if it is not quantized."""
    if not quantized_layers(trained.model):
        return None
    logits = compute_logits(trained.model, prompts)
    dequantize_base(trained, checkpoint)
    return logits
