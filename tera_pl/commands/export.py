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
from jsonargparse import ArgumentParser
from torch import Tensor
from transformers import AutoModelForCausalLM

from tera_pl.analysis import count
from tera_pl.analysis.merging import merge
from tera_pl.checkpoint_io import WholeCheckpointIO
from tera_pl.commands.model_card import write_card
from tera_pl.errors import UserError
from tera_pl.sharding import load_trained
from tera_pl.tasks import CausalLMTask
from tera_pl.tasks.checkpoint import check_checkpoint
from tera_pl.whole_files import whole_folder, write_whole
from tera_pl.yaml_files import read_yaml

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
        UserError: If the checkpoint is not one of a run, the output is not empty, or the adapter
            cannot be merged.
    """
    parser = argparse.ArgumentParser(prog="python -m tera_pl export", description=main.__doc__)
    parser.add_argument("--ckpt_path", required=True, type=Path, help="checkpoint of a run")
    parser.add_argument("--output", required=True, type=Path, help="folder to write, new or empty")
    parser.add_argument("--merge", action="store_true", help="add the updates to the weights")
    parser.add_argument("--dequantise", action="store_true", help="a quantised base, for --merge")
    parser.add_argument("--max_shard_size", default="5GB", help="largest file of weights")
    options = parser.parse_args(args)
    if options.output.exists() and any(options.output.iterdir()):
        raise UserError(f"--output: {options.output} is not empty: expected a new folder")
    run = options.ckpt_path.parent.parent
    task = _load_task(options.ckpt_path, run)
    results = _read_json(run / "results.json")
    with whole_folder(options.output) as folder:
        if options.merge and task.adapter is not None:
            report = _write_merged(task, folder, run, options)
        else:
            task.model.save_pretrained(folder, max_shard_size=options.max_shard_size)
            report = {}
        task.tokenizer.save_pretrained(folder)
        write_card(folder, task, run, results, report)
        if report:
            write_whole(folder / "export_report.json", json.dumps(report, indent=2) + "\n")
    told = "".join(f"\n{key}: {value}" for key, value in report.items())
    sys.stdout.write(f"exported to {options.output}{told}\n")
    return 0


def _load_task(path: Path, run: Path) -> CausalLMTask:
    """Build the model of a run and load its checkpoint, strictly."""
    config = run / "config.yaml"
    if not path.is_file() or not config.is_file():
        missing = path if not path.is_file() else config
        raise UserError(
            f"--ckpt_path: no file {missing}: expected runs/<name>/version_k/checkpoints/*.ckpt "
            "with the run's config.yaml two folders above"
        )
    checkpoint = WholeCheckpointIO().load_checkpoint(path)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(CausalLMTask, "model")
    content = read_yaml(config)
    task = parser.instantiate(parser.parse_object({"model": content["model"]})).model
    task.prepare_data()
    task.setup("test")
    task.configure_model()
    shapes = {n: tuple(p.shape) for n, p in task.named_parameters() if p.requires_grad}
    check_checkpoint(
        checkpoint, task.spec, shapes, resuming=False, allow_changed=task.allow_changed
    )
    load_trained(task, checkpoint["state_dict"])
    task.eval()
    return task


def _write_merged(
    task: CausalLMTask, folder: Path, run: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """Merge in place, write, and compare with what the adapted model said before."""
    model = task.model
    if getattr(model.get_base_model(), "hf_quantizer", None) is not None:
        if not options.dequantise:
            raise UserError(
                "--merge: the base is quantised, and sums in its type would lose the update: "
                "add --dequantise to write a model in floating point"
            )
        model.get_base_model().dequantize()
    batches = _prompts(task, run)
    before = [_logits(model, ids) for ids in batches]
    counts = asdict(count(model))
    merged, rounding = merge(model)
    merged.save_pretrained(folder, max_shard_size=options.max_shard_size)
    task.model = torch.nn.Identity()
    del model, merged
    gc.collect()
    # As anybody will load it: from the files, without an adapter.
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    after = [_logits(plain, ids) for ids in batches]
    errors = [(a - b).abs().max().item() for a, b in zip(after, before, strict=True)]
    return {
        "merged_layers": rounding.layers,
        "largest_weight_error": rounding.largest,
        "largest_weight_error_in_half_steps": rounding.largest_share,
        "largest_logit_error": max(errors),
        "largest_logit": max(values.abs().max().item() for values in before),
        "compared_tokens": sum(ids.numel() for ids in batches),
        "counts_before_merging": counts,
    }


def _prompts(task: CausalLMTask, run: Path) -> list[Tensor]:
    path = run / "predictions.jsonl"
    texts = [TEXT]
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines()[:NUM_PROMPTS]
        texts = [json.loads(line)["prompt"] for line in lines] or texts
    return [task.tokenizer(text, return_tensors="pt")["input_ids"] for text in texts]


@torch.no_grad()
def _logits(model: Any, ids: Tensor) -> Tensor:
    return model(input_ids=ids, use_cache=False).logits.float()


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
