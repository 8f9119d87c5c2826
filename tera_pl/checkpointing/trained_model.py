"""Rebuild the model that a checkpoint was saved from, out of the checkpoint alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from transformers import PreTrainedModel

from tera_pl.adapters.supported import NeedsWeightsError
from tera_pl.checkpointing.compatibility import (
    NOT_COMPARED,
    check_tensors,
    describe_differences,
    find_differences,
)
from tera_pl.checkpointing.run_spec import VOLATILE, ModelSpec, describe_model
from tera_pl.distributed.fsdp2 import load_trained
from tera_pl.errors import UserError
from tera_pl.models.backbone import (
    DTYPES,
    Backbone,
    add_adapter,
    load_meta_model,
    load_model,
    load_tokenizer,
)
from tera_pl.models.hub import check_available, find_commit
from tera_pl.models.quantization import dequantize, read_settings

# Prefix of the names of the model's parameters in a checkpoint.
PREFIX = "model."


@dataclass
class TrainedModel:
    """A model with the weights of a checkpoint.

    Args:
        model: A PeftModel in evaluation mode, or a PreTrainedModel without an adapter.
        adapter: Settings of its adapter, or None.
        tokenizer: The tokenizer of the base model.
        spec: What identifies adapter, base model and tokenizer.
        backbone: How the base model was loaded.
    """

    model: Any
    adapter: PeftConfig | None
    tokenizer: Any
    spec: ModelSpec
    backbone: Backbone


def load_trained_model(
    checkpoint: Mapping[str, Any],
    path: str | None = None,
    trust_remote_code: bool = False,
    check: Callable[[PeftModel], None] | None = None,
    check_dequantized: bool = False,
) -> TrainedModel:
    """Build base model and adapter from the description in a checkpoint, and load its tensors.

    Nothing else of the run is built, and no class is named by the checkpoint: its adapter is one of
    the methods registered with PEFT.

    Args:
        checkpoint: A loaded checkpoint, whose checksums have been verified.
        path: Folder or Hub id of the base model; by default the one in the checkpoint.
        trust_remote_code: Whether code that comes with the base model may run.
        check: Called with the adapted model on the meta device, before any weight is loaded.
        check_dequantized: Whether a quantized base is dequantized for `check`.

    Returns:
        The model.

    Raises:
        UserError: If the description is damaged, the base model differs from the one that was
            trained, or the tensors are not those of the adapter.
    """
    found = checkpoint.get("tera_pl")
    sections = {field.name for field in fields(ModelSpec)}
    if not isinstance(found, Mapping) or not found.keys() >= sections:
        raise UserError("--ckpt_path: the checkpoint has no description of its model")
    backbone = _read_backbone(found["backbone"], path, trust_remote_code)
    adapter = _read_adapter(found["adapter"])
    check_available(backbone.path, backbone.revision, backbone.described_by)
    tokenizer = load_tokenizer(backbone)
    if adapter is not None:
        meta = _try_adapter(backbone, adapter, quantized=not check_dequantized)
        if check is not None and meta is not None:
            check(meta)
    model: Any = load_model(backbone)
    if adapter is not None:
        model = _adapt(model, adapter, backbone, found)
    spec = describe_model(model, adapter, backbone, tokenizer)
    _check_same(found, spec, backbone)
    parameters = {PREFIX + name: p for name, p in model.named_parameters() if p.requires_grad}
    check_tensors(checkpoint.get("state_dict"), parameters)
    state = checkpoint["state_dict"].items()
    load_trained(model, {name.removeprefix(PREFIX): value for name, value in state})
    return TrainedModel(model.eval(), adapter, tokenizer, spec, backbone)


def dequantize_base(trained: TrainedModel, checkpoint: Mapping[str, Any]) -> None:
    """Replace the quantized base of a trained model by its weights in floating point.

    The base is loaded again, without the adapter, which some methods of PEFT tie to its layers.

    Args:
        trained: Result of `load_trained_model`; its `model` is replaced.
        checkpoint: The checkpoint that it is from.

    Raises:
        UserError: If this kind of quantization has no inverse.
    """
    assert trained.adapter is not None
    backbone = trained.backbone
    trained.model = torch.nn.Identity()  # not two models in memory at once
    base = dequantize(load_model(backbone), DTYPES[backbone.dtype])
    model = _adapt(base, trained.adapter, backbone, checkpoint["tera_pl"])
    state = checkpoint["state_dict"].items()
    load_trained(model, {name.removeprefix(PREFIX): value for name, value in state})
    trained.model = model.eval()


def _adapt(
    model: PreTrainedModel, adapter: PeftConfig, backbone: Backbone, found: Mapping[str, Any]
) -> PeftModel:
    """Add an adapter as in the run: frozen tensors that PEFT draws are in no checkpoint."""
    training = found.get("training")
    seed = training.get("seed") if isinstance(training, Mapping) else None
    torch.manual_seed(seed if isinstance(seed, int) else 0)
    commit = find_commit(backbone.path, backbone.revision, backbone.described_by)
    return add_adapter(model, adapter, commit)


def _read_backbone(found: Any, path: str | None, trust_remote_code: bool) -> Backbone:
    if not isinstance(found, Mapping) or found.get("dtype") not in DTYPES:
        raise UserError("--ckpt_path: the checkpoint's description of its base model is damaged")
    revision = found.get("commit") or found.get("revision")
    place = path or found.get("path")
    gguf_file = found.get("gguf_file")
    described = (("path", place), ("revision", revision or ""), ("gguf_file", gguf_file or ""))
    for name, value in described:
        if not isinstance(value, str):
            raise UserError(f"--ckpt_path: the checkpoint has {value!r} as backbone.{name}")
    return Backbone(
        path=str(place),
        revision=None if path else revision,
        dtype=found["dtype"],
        attn_implementation=None,  # nothing is trained
        pretrained=found.get("pretrained") is not False,
        trust_remote_code=trust_remote_code,
        # The model may have been converted to the other format since.
        gguf_file=gguf_file if not path or (Path(path) / str(gguf_file)).is_file() else None,
        quantization=read_settings(found.get("quantization")),
    )


def _read_adapter(settings: Any) -> PeftConfig | None:
    """Build the configuration of an adapter from untrusted plain values."""
    if settings is None:
        return None
    kind = settings.get("peft_type") if isinstance(settings, Mapping) else None
    if not isinstance(kind, str) or kind not in PEFT_TYPE_TO_CONFIG_MAPPING:
        raise UserError(
            f"--ckpt_path: the checkpoint's adapter is {kind!r}: expected a method of PEFT or of "
            "this package"
        )
    # PEFT imports the module that the first names and passes the second to a tokenizer.
    if settings.get("megatron_config") or (settings.get("tokenizer_kwargs") or {}).get(
        "trust_remote_code"
    ):
        raise UserError(
            "--ckpt_path: the checkpoint's adapter has megatron_config or "
            "tokenizer_kwargs.trust_remote_code, which would run code that the file names"
        )
    try:
        config = PEFT_TYPE_TO_CONFIG_MAPPING[kind](
            **{key: value for key, value in settings.items() if key not in VOLATILE}
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise _invalid(error) from error
    assert isinstance(config, PeftConfig)
    return config


def _try_adapter(backbone: Backbone, adapter: PeftConfig, *, quantized: bool) -> PeftModel | None:
    """Inject an adapter on the meta device, before weights load; None if the method needs them."""
    try:
        return add_adapter(load_meta_model(backbone, quantized=quantized), adapter)
    except NeedsWeightsError:
        return None
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise _invalid(error) from error


def _invalid(error: Exception) -> UserError:
    return UserError(f"--ckpt_path: the checkpoint's adapter settings are invalid: {error}")


def _check_same(found: Mapping[str, Any], spec: ModelSpec, backbone: Backbone) -> None:
    """Refuse another base model than the one that was trained."""
    ours = spec.as_dict()
    differing = [
        difference
        for difference in find_differences(found, ours, ours.keys())
        if difference[0] not in NOT_COMPARED
    ]
    if differing:
        raise UserError(
            f"--ckpt_path: the base model at {backbone.path!r} is not the one that this checkpoint "
            f"was trained on: {describe_differences(differing, 'here')}: name the folder of the "
            "right one by --backbone"
        )
