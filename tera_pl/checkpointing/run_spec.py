"""Describe a run by what its checkpoints depend on, as plain values."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NotRequired, TypedDict

import torch
from peft import PeftConfig
from torch import nn
from transformers import PreTrainedTokenizerBase

from tera_pl.contracts import complete
from tera_pl.models.backbone import Backbone
from tera_pl.models.base_description import BaseDescription, describe_base
from tera_pl.models.fingerprint import fingerprint_frozen

# Written by PEFT itself, or moved with a folder: no property of the adapter.
VOLATILE = {
    "peft_version",
    "inference_mode",
    "base_model_name_or_path",
    "auto_mapping",
    "revision",
    "weights_sha256",
    "settings_sha256",
}


class BackboneSpec(BaseDescription):
    """What identifies the base model: its description and the SHA-256 of its frozen weights."""

    frozen_weights_sha256: str


class TokenizerSpec(TypedDict):
    """What identifies a tokenizer; `sha256` is that of vocabulary, merges and added tokens."""

    size: int
    bos_token: str | None
    eos_token: str | None
    unk_token: str | None
    pad_token: str | None
    sha256: str


class TrainingSpec(TypedDict):
    """What the steps of training depend on, apart from model, optimizer and protocol."""

    seed: int
    data: str
    batch_size: int | None
    tokens_per_batch: int | None
    max_steps: int
    max_epochs: int | None
    limit_train_batches: int | float | None
    accumulate_grad_batches: int
    gradient_clip_val: float | None
    precision: str
    processes: int
    files: NotRequired[dict[str, str]]


@dataclass(frozen=True)
class ModelSpec:
    """What identifies an adapted model.

    Args:
        adapter: Settings of the adapter, or None in full fine-tuning.
        backbone: The base model.
        tokenizer: Its tokenizer.
    """

    adapter: dict[str, Any] | None
    backbone: BackboneSpec
    tokenizer: TokenizerSpec

    def as_dict(self) -> dict[str, Any]:
        """Give the sections as plain values, as checkpoints and `results.json` store them."""
        return asdict(self)


@dataclass(frozen=True)
class RunSpec(ModelSpec):
    """What the checkpoints of a run depend on, by section.

    Args:
        adapter: Settings of the adapter, or None in full fine-tuning.
        backbone: The base model.
        tokenizer: Its tokenizer.
        optimizer: `class` and settings of the optimizer.
        schedule: Settings of the learning rate schedule.
        data: The datamodule's description of its evaluation protocol; None if it has none.
        training: What the steps of training depend on; None without a trainer.
    """

    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    data: dict[str, Any] | None
    training: TrainingSpec | None


def describe_model(
    model: Any, adapter: PeftConfig | None, backbone: Backbone, tokenizer: PreTrainedTokenizerBase
) -> ModelSpec:
    """Describe an adapted model.

    Args:
        model: The model with its adapter, before its weights are sharded.
        adapter: The settings that were asked for, or None for none.
        backbone: The base model.
        tokenizer: The tokenizer of the base model.

    Returns:
        What identifies it.
    """
    return ModelSpec(
        adapter=describe_adapter(model, adapter),
        backbone={**describe_base(backbone), "frozen_weights_sha256": fingerprint_frozen(model)},
        tokenizer=describe_tokenizer(tokenizer),
    )


def describe_run(
    model: ModelSpec,
    optimizer: Callable[..., torch.optim.Optimizer],
    schedule: dict[str, Any],
    trainer: Any,
) -> RunSpec:
    """Describe a run.

    Args:
        model: What identifies its model.
        optimizer: Builds the optimizer from parameters.
        schedule: Settings of the learning rate schedule.
        trainer: The trainer, or None.

    Returns:
        What the checkpoints of the run depend on.
    """
    return RunSpec(
        adapter=model.adapter,
        backbone=model.backbone,
        tokenizer=model.tokenizer,
        optimizer=describe_optimizer(optimizer),
        schedule=schedule,
        data=None if trainer is None else describe_data(trainer),
        training=None if trainer is None else describe_training(trainer),
    )


def describe_adapter(model: Any, adapter: PeftConfig | None) -> dict[str, Any] | None:
    """Describe an adapter by its settings.

    Args:
        model: The adapted model, whose own copy of the settings is complete (hashes, resolved
            targets).
        adapter: The settings that were asked for, or None for none.

    Returns:
        Plain values by name, or None without an adapter.
    """
    if adapter is None:
        return None
    settings = model.peft_config["default"].to_dict()
    return _plain({key: value for key, value in settings.items() if key not in VOLATILE})


def describe_optimizer(optimizer: Callable[..., torch.optim.Optimizer]) -> dict[str, Any]:
    """Describe the optimizer that a callable builds.

    Args:
        optimizer: Builds an optimizer from parameters.

    Returns:
        Its class name as `class`, and every setting that is a plain value or a list of them.
    """
    built = optimizer([nn.Parameter(torch.zeros(1))])
    plain = (bool, int, float, str, tuple, list, type(None))
    settings = {k: v for k, v in built.defaults.items() if isinstance(v, plain)}
    return {"class": type(built).__name__, **_plain(settings)}


def describe_tokenizer(tokenizer: PreTrainedTokenizerBase) -> TokenizerSpec:
    """Identify a tokenizer by how it tokenizes a text.

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
    return {
        "size": len(tokenizer),
        "bos_token": getattr(tokenizer, "bos_token", None),
        "eos_token": getattr(tokenizer, "eos_token", None),
        "unk_token": getattr(tokenizer, "unk_token", None),
        "pad_token": getattr(tokenizer, "pad_token", None),
        "sha256": hash_values(state),
    }


def describe_data(trainer: Any) -> dict[str, Any] | None:
    """Describe what scores depend on: template, mask and split.

    Args:
        trainer: The trainer of the run.

    Returns:
        The datamodule's `describe_protocol()`, or None if it has none.
    """
    protocol = complete(trainer.datamodule).describe_protocol()
    return None if protocol is None else _plain(protocol)


def describe_training(trainer: Any) -> TrainingSpec:
    """Describe what the steps of training depend on, apart from model, optimizer and protocol.

    Args:
        trainer: The trainer of the run, before its first step.

    Returns:
        Plain values by name. `seed` is the one of `seed_everything`, `files` the SHA-256 of every
        file of training data, if the datamodule names any.
    """
    data = complete(trainer.datamodule)
    spec: TrainingSpec = {
        "seed": torch.initial_seed(),
        "data": class_path(trainer.datamodule),
        "batch_size": data.batch_size,
        "tokens_per_batch": data.tokens_per_batch,
        "max_steps": trainer.max_steps,
        "max_epochs": trainer.max_epochs,
        "limit_train_batches": trainer.limit_train_batches,
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "gradient_clip_val": trainer.gradient_clip_val,
        "precision": str(trainer.precision),
        "processes": trainer.world_size,
    }
    if files := data.training_files():
        spec["files"] = dict(files)
    return spec


def class_path(value: object) -> str:
    """Give the class path of an object, as a configuration names it."""
    return f"{type(value).__module__}.{type(value).__qualname__}"


def hash_values(values: Any) -> str:
    """Compute the SHA-256 of plain values; the order of keys has no effect.

    Args:
        values: Values that JSON can store.

    Returns:
        A hexadecimal digest.
    """
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Convert values to what JSON can store, which a weights-only load can read."""
    return json.loads(
        json.dumps(values, default=lambda v: sorted(v) if isinstance(v, set) else str(v))
    )
