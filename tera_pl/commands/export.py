"""Write what a run has trained as a folder for others: an adapter, or a merged model."""

import argparse
import gc
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from tera_pl.analysis import count
from tera_pl.analysis.merging import check_mergeable, merge
from tera_pl.analysis.wider_dtype import largest_allowed_error, largest_difference, widened
from tera_pl.checkpointing.atomic_writes import (
    OVERWRITE_HELP,
    atomic_folder,
    check_target,
    write_atomically,
)
from tera_pl.checkpointing.checkpoint_io import AtomicCheckpointIO
from tera_pl.checkpointing.trained_model import TrainedModel, load_trained_model
from tera_pl.commands.arguments import Parser, file_size
from tera_pl.errors import RunStoppedError, UserError
from tera_pl.export.model_card import write_card
from tera_pl.reporting.result_files import read_results

KIND = "export"

# For runs without answers: what the outputs of adapted and merged model are compared on.
TEXT = "A researcher merged an adapter into a model and asked both the same question."
NUM_PROMPTS = 4


def main(args: Sequence[str]) -> int:
    """Export a checkpoint as a PEFT adapter, or merged as a model for plain transformers.

    Args:
        args: Arguments of the command.

    Returns:
        0.

    Raises:
        UserError: If the checkpoint is not one of a run, something is at the output already, or the
            adapter cannot be merged.
    """
    parser = Parser("export", main.__doc__)
    parser.add_argument("--ckpt_path", required=True, type=Path, help="checkpoint of a run")
    parser.add_argument("--output", required=True, type=Path, help="folder to write, new or empty")
    parser.add_argument("--backbone", metavar="PATH", help="the base model, if it has moved")
    parser.add_argument(
        "--trust_remote_code", action="store_true", help="run code that comes with the base model"
    )
    parser.add_argument("--merge", action="store_true", help="add the updates to the weights")
    parser.add_argument("--dequantize", action="store_true", help="a quantized base, for --merge")
    parser.add_argument(
        "--max_shard_size", type=file_size, default="5GB", help="largest file of weights"
    )
    parser.add_argument("--overwrite", action="store_true", help=OVERWRITE_HELP)
    options = parser.parse_args(args)
    check_target(options.output, KIND, replace=options.overwrite)
    # Resolved: of `version_0/../other.ckpt`, the results are not those of version_0.
    run = options.ckpt_path.resolve().parent.parent
    if not options.ckpt_path.is_file():
        raise UserError(f"--ckpt_path: no file {options.ckpt_path}: expected a .ckpt of a run")
    checkpoint = AtomicCheckpointIO().load_checkpoint(options.ckpt_path)
    # What cannot be merged is refused before any weight is loaded.
    task = load_trained_model(
        checkpoint,
        options.backbone,
        options.trust_remote_code,
        check=check_mergeable if options.merge else None,
    )
    del checkpoint
    results = read_results(run / "results.json")
    with atomic_folder(options.output, KIND, replace=options.overwrite) as folder:
        if options.merge and task.adapter is not None:
            report = _write_merged(task, folder, run, options)
        else:
            task.model.save_pretrained(folder, max_shard_size=options.max_shard_size)
            report = {}
        task.tokenizer.save_pretrained(folder)
        write_card(folder, task, run, results, report)
        if report:
            write_atomically(folder / "export_report.json", json.dumps(report, indent=2) + "\n")
    told = "".join(f"\n{key}: {value}" for key, value in report.items())
    sys.stdout.write(f"exported to {options.output}{told}\n")
    return 0


def _write_merged(
    task: TrainedModel, folder: Path, run: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """Merge in place, write, and compare with what the adapted model said before.

    The folder is read again as anybody will read it. If its logits differ from those of the adapted
    model, evaluated in a wider type, by more than rounding explains (`largest_allowed_error`), the
    export fails.
    """
    model = task.model
    if getattr(model.get_base_model(), "hf_quantizer", None) is not None:
        if not options.dequantize:
            raise UserError(
                "--merge: the base is quantized, and sums in its type would lose the update: "
                "add --dequantize to write a model in floating point"
            )
        model.get_base_model().dequantize()
    batches = _prompts(task, run)
    before = [_logits(model, ids) for ids in batches]
    with widened(model):
        exact = [_logits(model, ids) for ids in batches]
    allowed = largest_allowed_error(before, exact, model.get_base_model().dtype)
    counts = asdict(count(model))
    merged, rounding = merge(model)
    merged.save_pretrained(folder, max_shard_size=options.max_shard_size)
    task.model = torch.nn.Identity()
    del model, merged
    gc.collect()
    # As anybody will load it: from the files, without an adapter.
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    after = [_logits(plain, ids) for ids in batches]
    error = largest_difference(after, exact)
    # Not "greater": NaN is neither.
    if not error <= allowed:
        raise RunStoppedError(
            f"the merged model's logits differ from the adapted model's by {error:.3g}, of "
            f"{_largest(exact):.3g} at most, and rounding to {plain.dtype} explains no more than "
            f"{allowed:.3g}: nothing was written to {options.output}"
        )
    return {
        "merged_layers": rounding.layers,
        "largest_weight_error": rounding.largest,
        "largest_weight_error_in_half_steps": rounding.largest_share,
        "largest_layer_error": rounding.largest_layer_error,
        "largest_logit_error": error,
        "largest_allowed_logit_error": allowed,
        "largest_logit": _largest(exact),
        "compared_tokens": sum(ids.numel() for ids in batches),
        "counts_before_merging": counts,
    }


def _prompts(task: TrainedModel, run: Path) -> list[Tensor]:
    path = run / "predictions.jsonl"
    texts = [TEXT]
    if path.exists():
        try:
            lines = path.read_text(encoding="utf-8").splitlines()[:NUM_PROMPTS]
            texts = [str(json.loads(line)["prompt"]) for line in lines] or texts
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error}): restore it, or remove it") from None
    return [task.tokenizer(text, return_tensors="pt")["input_ids"] for text in texts]


@torch.no_grad()
def _logits(model: Any, ids: Tensor) -> Tensor:
    return model(input_ids=ids, use_cache=False).logits


def _largest(batches: list[Tensor]) -> float:
    return max(values.abs().max().item() for values in batches)
