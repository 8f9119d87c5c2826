"""Describe a run by what its checkpoints depend on, as plain values."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import torch
from peft import PeftConfig
from torch import nn
from transformers import PreTrainedTokenizerBase

# Written by PEFT itself, or moved with a folder: no property of the adapter.
VOLATILE = {
    "peft_version",
    "inference_mode",
    "base_model_name_or_path",
    "auto_mapping",
    "revision",
    "weights_sha256",
}
SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")


def describe_adapter(model: Any, adapter: PeftConfig | None) -> dict[str, Any] | None:
    """Give the settings of an adapter as plain values.

    Args:
        model: The adapted model, whose own copy of the settings is complete (hashes, resolved
            targets).
        adapter: The settings that were asked for, or null for none.

    Returns:
        Settings by name, or null without an adapter.
    """
    if adapter is None:
        return None
    settings = model.peft_config["default"].to_dict()
    return _plain({key: value for key, value in settings.items() if key not in VOLATILE})


def describe_optimizer(optimizer: Callable[..., torch.optim.Optimizer]) -> dict[str, Any]:
    """Give class and settings of the optimizer that a callable builds.

    Args:
        optimizer: Builds an optimizer from parameters.

    Returns:
        The class name and every setting that is a plain value, or several.
    """
    built = optimizer([nn.Parameter(torch.zeros(1))])
    plain = (bool, int, float, str, tuple, list, type(None))
    settings = {k: v for k, v in built.defaults.items() if isinstance(v, plain)}
    return {"class": type(built).__name__, **_plain(settings)}


def describe_tokenizer(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Identify a tokenizer by what it makes of a text.

    Args:
        tokenizer: The tokenizer.

    Returns:
        Number of tokens, special tokens, and a SHA-256 over vocabulary, merges, normalization and
        added tokens.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # a tokenizer in Python
        state = {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
    else:
        state = json.loads(backend.to_str())
        # Set by every call, and of no effect on the tokens.
        state["padding"] = state["truncation"] = None
    special = {name: getattr(tokenizer, name, None) for name in SPECIAL_TOKENS}
    return {"size": len(tokenizer), **special, "sha256": hash_values(state)}


def describe_data(trainer: Any) -> dict[str, Any] | None:
    """Give what the trainer's datamodule says that scores depend on: template, mask, split.

    Args:
        trainer: The trainer of the run.

    Returns:
        Its `describe_protocol()`, or null if it has none.
    """
    data = trainer.datamodule
    return _plain(data.describe_protocol()) if hasattr(data, "describe_protocol") else None


def describe_training(trainer: Any) -> dict[str, Any]:
    """Give what the steps of training depend on, apart from model, optimizer and template.

    Args:
        trainer: The trainer of the run, before its first step.

    Returns:
        Plain values by name. `seed` is the one of `seed_everything`, `files` the SHA-256 of every
        file of training data, if the datamodule names any.
    """
    data = trainer.datamodule
    files = data.training_files() if hasattr(data, "training_files") else {}
    names = ("max_steps", "max_epochs", "limit_train_batches", "accumulate_grad_batches")
    return {
        "seed": torch.initial_seed(),
        "data": f"{type(data).__module__}.{type(data).__qualname__}",
        "batch_size": getattr(data, "batch_size", None),
        "tokens_per_batch": getattr(data, "tokens_per_batch", None),
        **{name: getattr(trainer, name) for name in names},
        "gradient_clip_val": trainer.gradient_clip_val,
        "precision": str(trainer.precision),
        "processes": trainer.world_size,
        **({"files": files} if files else {}),
    }


def hash_values(values: Any) -> str:
    """Give the SHA-256 of plain values, whatever the order of their keys.

    Args:
        values: What JSON can carry.

    Returns:
        A hexadecimal digest.
    """
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """What JSON can carry, a weights-only load can read."""
    return json.loads(
        json.dumps(values, default=lambda v: sorted(v) if isinstance(v, set) else str(v))
    )
