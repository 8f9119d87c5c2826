"""Merge an adapter into its base, write the model and compare it with the adapted one."""

import gc
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from tera_pl.analysis import count
from tera_pl.analysis.merging import check_mergeable, merge
from tera_pl.analysis.wider_dtype import largest_allowed_error, largest_difference, widened
from tera_pl.checkpointing.trained_model import TrainedModel
from tera_pl.errors import RunStoppedError, UserError

# Compared on this text where a run has no predictions.
TEXT = "A researcher merged an adapter into a model and asked both the same question."
NUM_PROMPTS = 4


def comparison_prompts(tokenizer: Any, run: Path) -> list[Tensor]:
    """Encode the prompts on which the adapted and the merged model are compared.

    Args:
        tokenizer: The tokenizer of the base.
        run: The run directory, whose first predictions give the prompts.

    Returns:
        Token ids, each (1, tokens).

    Raises:
        UserError: If the predictions cannot be read.
    """
    path = run / "predictions.jsonl"
    texts = [TEXT]
    if path.exists():
        try:
            # Not `splitlines`: a text may contain other separators, which JSON leaves as they are.
            lines = path.read_text(encoding="utf-8").split("\n")[:NUM_PROMPTS]
            texts = [str(json.loads(line)["prompt"]) for line in lines if line] or texts
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error}): restore it, or remove it") from None
    return [tokenizer(text, return_tensors="pt")["input_ids"] for text in texts]


def write_merged(
    trained: TrainedModel,
    folder: Path,
    prompts: list[Tensor],
    max_shard_size: str,
    quantized: list[Tensor] | None = None,
) -> dict[str, Any]:
    """Merge in place, write the model, and compare it with the adapted one.

    The folder is loaded again as its users will load it. Its logits may differ from those of the
    adapted model, evaluated in a wider type, by what rounding explains (`largest_allowed_error`).

    Args:
        trained: The adapted model; its `model` is released before the folder is loaded.
        folder: An empty folder.
        prompts: Token ids to compare the models on, each (1, tokens).
        max_shard_size: Size of the largest file of weights.
        quantized: Logits of the adapted model before its base was dequantized, or None.

    Returns:
        The largest errors of weights, layers and logits, parameter counts before merging, and the
        difference to `quantized`: the largest, and its norm as a share of theirs.

    Raises:
        UserError: If the adapter cannot be merged.
        RunStoppedError: If the logits differ by more.
    """
    model = trained.model
    check_mergeable(model)
    before = compute_logits(model, prompts)
    with widened(model):
        exact = compute_logits(model, prompts)
    allowed = largest_allowed_error(before, exact, model.get_base_model().dtype)
    counts = asdict(count(model))
    merged, rounding = merge(model)
    merged.save_pretrained(folder, max_shard_size=max_shard_size)
    del model, merged, trained.model
    gc.collect()
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    found = compute_logits(plain, prompts)
    error = largest_difference(found, exact)
    # Not `error > allowed`, which is false for NaN.
    if not error <= allowed:
        raise RunStoppedError(
            f"the merged model's logits differ from the adapted model's by {error:.3g}, of "
            f"{_largest(exact):.3g} at most, and rounding to {plain.dtype} explains no more than "
            f"{allowed:.3g}: nothing was written"
        )
    report = {
        "merged_layers": rounding.layers,
        "largest_weight_error": rounding.largest,
        "largest_weight_error_in_half_steps": rounding.largest_share,
        "largest_layer_error": rounding.largest_layer_error,
        "largest_logit_error": error,
        "largest_allowed_logit_error": allowed,
        "largest_logit": _largest(exact),
        "compared_tokens": sum(ids.numel() for ids in prompts),
        "counts_before_merging": counts,
    }
    return report | ({} if quantized is None else _compare_dequantized(found, quantized))


@torch.no_grad()
def compute_logits(model: Any, prompts: list[Tensor]) -> list[Tensor]:
    """Compute the logits of a model.

    Args:
        model: A causal language model, adapted or not.
        prompts: Token ids, each (1, tokens).

    Returns:
        Tensors of shape (1, tokens, vocabulary).
    """
    return [model(input_ids=ids, use_cache=False).logits for ids in prompts]


def _compare_dequantized(found: list[Tensor], quantized: list[Tensor]) -> dict[str, float]:
    logits, expected = (torch.cat([t.double().flatten() for t in ts]) for ts in (found, quantized))
    return {
        "largest_dequantization_error": largest_difference([logits], [expected]),
        "relative_dequantization_error": ((logits - expected).norm() / expected.norm()).item(),
    }


def _largest(batches: list[Tensor]) -> float:
    return max(values.abs().max().item() for values in batches)
