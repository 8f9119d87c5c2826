"""Check a configuration against the architecture of the backbone, before weights load."""

from typing import Any

from peft import PeftConfig
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from tera_pl import contracts
from tera_pl.adapters.quantized import quantized_layers
from tera_pl.adapters.supported import NeedsWeightsError
from tera_pl.checkpointing.run_spec import describe_tokenizer
from tera_pl.config.construction import is_own, name_error
from tera_pl.errors import UserError, is_user_error
from tera_pl.models.backbone import Backbone, add_adapter


def check_metric(metric: Any) -> contracts.Metric | contracts.LikelihoodMetric | None:
    """Refuse an object that cannot score answers.

    Args:
        metric: `model.init_args.metric`, or None.

    Returns:
        The metric.

    Raises:
        UserError: If it lacks a method of `tera_pl.contracts.Metric`.
    """
    if metric is not None and not isinstance(metric, contracts.Metric):
        raise UserError(
            f"metric is {type(metric).__name__}: expected one of tera_pl.metrics, or one that "
            "has their methods `names` and `judge`"
        )
    return metric


def check_vocabulary(
    tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig, backbone: Backbone
) -> None:
    """Refuse a tokenizer with more tokens than the model has embeddings.

    Args:
        tokenizer: The tokenizer of the backbone.
        config: Its architecture.
        backbone: Its place, for the message.

    Raises:
        UserError: If the tokenizer does not belong to the model.
    """
    vocab_size = config.get_text_config().vocab_size
    if len(tokenizer) > vocab_size:
        raise UserError(
            f"model.init_args.backbone.path: the tokenizer of {backbone.path!r} has "
            f"{len(tokenizer)} tokens, the model only {vocab_size}: use its own tokenizer"
        )


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, datamodule: object) -> None:
    """Refuse a datamodule whose tokenizer differs from that of the backbone.

    The two are loaded separately, because tasks and datamodules do not import each other and a
    datamodule sets the padding token of its own.

    Args:
        tokenizer: The tokenizer of the backbone.
        datamodule: The trainer's datamodule, after its `setup`.

    Raises:
        UserError: If vocabulary, merges or special tokens differ, the padding token excepted.
    """
    other = contracts.complete(datamodule).tokenizer
    # Tokenizers of one folder or Hub id are equal; a comparison of large ones takes a second.
    if other is None or other.name_or_path == tokenizer.name_or_path:
        return
    ours, theirs = describe_tokenizer(tokenizer), describe_tokenizer(other)
    if ours | {"pad_token": None} != theirs | {"pad_token": None}:
        raise UserError(
            f"data: {type(datamodule).__name__} tokenizes with {other.name_or_path!r}, which "
            "differs from the tokenizer of model.init_args.backbone.path, "
            f"{tokenizer.name_or_path!r}: use the latter"
        )


def check_quantized(model: PreTrainedModel, adapter: PeftConfig | None, *, sharded: bool) -> None:
    """Refuse what cannot be done with a quantized base.

    Args:
        model: The base model on the meta device.
        adapter: Settings of the adapter, or None to train every weight.
        sharded: Whether FSDP2 shards the weights of the base.

    Raises:
        UserError: If the base is quantized, and all of its weights would be trained, or FSDP2
            would lose a part of them.
    """
    layers = quantized_layers(model).values()
    if not layers:
        return
    if adapter is None:
        raise UserError(
            "model.init_args.adapter is null: expected an adapter: the weights of a quantized "
            "base cannot be trained"
        )
    # Its 4-bit layers find the scales of a weight again, whatever takes the place of its parameter.
    if sharded and any(type(layer).__name__ != "Linear4bit" for layer in layers):
        raise UserError(
            "trainer.strategy: FSDP2 replaces parameters, and only 4-bit layers of bitsandbytes "
            "keep the scales of their weights then: use configs/base/ddp.yaml, or load_in_4bit"
        )


def try_adapter(model: PreTrainedModel, adapter: PeftConfig | None) -> Any:
    """Inject an adapter into a model on the meta device, where an error costs no weights.

    Args:
        model: The model on the meta device.
        adapter: Settings of the adapter, or None.

    Returns:
        The adapted model; without its adapter where the method needs the weights.

    Raises:
        UserError: If the adapter's class refuses its settings or the model.
    """
    if adapter is None:
        return model
    try:
        return add_adapter(model, adapter)
    except NeedsWeightsError:  # checked when the weights are loaded
        return model
    except Exception as error:
        if is_own(type(adapter)) and not is_user_error(error):
            raise
        key = "model.init_args.adapter"
        name = f"{key} ({type(adapter).__name__})"
        raise name_error(error, name, f"{key}.init_args", vars(adapter)) from error
