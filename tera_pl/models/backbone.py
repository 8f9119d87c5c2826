"""Load a pretrained causal language model and add an adapter to it."""

import copy
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_warn
from peft import PeftConfig, PeftModel
from peft.utils.error import NoMatchingPeftModuleError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging
from transformers.utils.quantization_config import QuantizationConfigMixin

from tera_pl.adapters import check_targets, choose_targets
from tera_pl.adapters.supported import inject
from tera_pl.config.shipped import locate
from tera_pl.errors import UserError
from tera_pl.extras import require
from tera_pl.models.attention import AUTO, check_attention, choose_attention, why_not_packed
from tera_pl.models.hub import CONFIG, find_folder, how_to_download
from tera_pl.models.quantization import (
    check_quantization,
    loading_arguments,
    prepare_quantized,
    quantize_shapes,
)
from tera_pl.models.weight_checks import find_invalid_weights

# Exceptions that libraries raise for missing, truncated or damaged files of weights.
UNREADABLE = (
    OSError,
    ValueError,
    RuntimeError,
    KeyError,
    TypeError,
    EOFError,
    SafetensorError,
    pickle.UnpicklingError,
)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Backbone:
    """A causal language model and how it is loaded.

    Args:
        path: Folder in the Hugging Face format, on disk or in one of these packages, or the id of a
            model on the Hub.
        revision: Branch, tag or commit on the Hub. Pin a commit for a reproducible run.
        dtype: Type of the frozen weights. Adapters keep their own precision.
        attn_implementation: `packed_sdpa`, which removes the padding of batches for the loss and is
            `sdpa` for generation; or an attention kernel (`sdpa`, `eager`, `flash_attention_2`), or
            null for the default of transformers; `auto` is `packed_sdpa` where that is exact, and
            else null.
        trust_remote_code: Whether code in the model's folder or repository may run.
        pretrained: False draws new weights for the architecture, to pretrain from scratch.
        gradient_checkpointing: Recompute activations in backward: less memory, more time.
        gguf_file: Name of a GGUF file there, which holds configuration, tokenizer and weights; the
            weights are dequantized to `dtype`.
        quantization: Quantize the frozen weights of linear layers while they load: a quantization
            config of transformers by `class_path`, as `configs/base/quantization/` has. Other
            weights have `dtype`; in float32 they are what
            `peft.prepare_model_for_kbit_training` makes of them.
        compile: Compile the decoder layers by `torch.compile` for training. Evaluation is not
            compiled. A CPU needs a C++ compiler.
    """

    path: str
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    attn_implementation: str | None = AUTO
    trust_remote_code: bool = False
    pretrained: bool = True
    gradient_checkpointing: bool = False
    gguf_file: str | None = None
    quantization: QuantizationConfigMixin | None = None
    compile: bool = False

    @property
    def described_by(self) -> str:
        """Name of the file that describes the model."""
        return self.gguf_file or CONFIG

    def file_settings(self) -> dict[str, Any]:
        """Where the readers of transformers find configuration, tokenizer and weights."""
        settings = {"revision": self.revision, "trust_remote_code": self.trust_remote_code}
        if self.gguf_file is None:
            return settings
        require("gguf", "model.init_args.backbone.gguf_file")
        return {**settings, "gguf_file": self.gguf_file}


def load_config(backbone: Backbone) -> PretrainedConfig:
    """Read the architecture of a backbone without its weights.

    Args:
        backbone: Which model.

    Returns:
        The configuration of the model.

    Raises:
        UserError: If the model is missing, its `config.json` is unreadable, or the attention that
            was asked for does not fit it.
    """
    try:
        config = AutoConfig.from_pretrained(locate(backbone.path), **backbone.file_settings())
    except Exception as error:  # a damaged file makes its readers raise anything
        raise UserError(
            f"model.init_args.backbone.path: no causal language model at {backbone.path!r}: "
            f"expected a folder or Hub id with a readable {backbone.described_by} "
            f"({_first_line(error)}); {_what_to_do(backbone)}"
        ) from error
    check_attention(backbone.attn_implementation, config, backbone.trust_remote_code)
    if backbone.gguf_file is not None and backbone.quantization is not None:
        raise UserError(
            "model.init_args.backbone.gguf_file: its weights are dequantized, and not quantized "
            "again: remove it, or model.init_args.backbone.quantization"
        )
    check_quantization(backbone.quantization, config, pretrained=backbone.pretrained)
    return config


def load_tokenizer(backbone: Backbone) -> PreTrainedTokenizerBase:
    """Load the tokenizer that belongs to a backbone.

    Args:
        backbone: Which model.

    Returns:
        The tokenizer.

    Raises:
        UserError: If the tokenizer is missing or unreadable.
    """
    try:
        return AutoTokenizer.from_pretrained(locate(backbone.path), **backbone.file_settings())
    except Exception as error:  # a damaged file makes its readers raise anything
        raise UserError(
            f"model.init_args.backbone.path: no tokenizer at {backbone.path!r} "
            f"({_first_line(error)}); {_what_to_do(backbone)}"
        ) from error


def load_model(backbone: Backbone) -> PreTrainedModel:
    """Load the weights of a backbone, or draw them anew if it is not `pretrained`.

    Args:
        backbone: Which model.

    Returns:
        The model with weights of type `backbone.dtype`.

    Raises:
        UserError: If weights are missing, damaged, not finite or of another shape or kind.
    """
    config = load_config(backbone)
    kwargs: dict[str, Any] = {"dtype": DTYPES[backbone.dtype]}
    trusted = backbone.trust_remote_code
    attention = choose_attention(backbone.attn_implementation, config, trusted)
    if attention is not None:
        kwargs["attn_implementation"] = attention
    elif backbone.attn_implementation == AUTO:
        rank_zero_warn(f"batches are padded: {why_not_packed(config, trusted)}")
    if not backbone.pretrained:
        return AutoModelForCausalLM.from_config(
            config, trust_remote_code=backbone.trust_remote_code, **kwargs
        )
    verbosity = logging.get_verbosity()
    # Missing weights are an error below; transformers draws them at random and only logs it.
    logging.set_verbosity_error()
    kwargs |= loading_arguments(backbone.quantization)
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            locate(backbone.path),
            config=config,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **backbone.file_settings(),
            **kwargs,
        )
    except UNREADABLE as error:
        raise UserError(
            f"model.init_args.backbone.path: {backbone.path!r} has no readable weights "
            f"({_first_line(error)}); {_what_to_do(backbone)}"
        ) from None
    except ImportError as error:  # the package of an attention kernel
        raise UserError(f"model.init_args.backbone: {_first_line(error)}") from error
    finally:
        logging.set_verbosity(verbosity)
    _check_loaded(report, backbone)
    folder = None
    if backbone.gguf_file is None:
        folder = find_folder(backbone.path, backbone.revision)
    else:
        # The weights are dequantized, but transformers would refuse to save them.
        model.hf_quantizer.remove_quantization_config(model)
    if invalid := find_invalid_weights(model, folder):
        raise UserError(
            f"model.init_args.backbone.path: the weights at {backbone.path!r} are damaged: "
            f"{'; '.join(invalid[:3])} ({len(invalid)} in all); {_what_to_do(backbone)}"
        )
    prepare_quantized(model, folder, DTYPES[backbone.dtype])
    return model


def _check_loaded(report: Mapping[str, Any], backbone: Backbone) -> None:
    """Raise if transformers has drawn weights at random because the files lack them.

    Of tied weights one is saved, and transformers does not report the other as missing.
    """
    mismatched = [
        f"{name} of shape {tuple(found)} instead of {tuple(expected)}"
        for name, found, expected in sorted(report["mismatched_keys"])
    ]
    missing = [f"no {name}" for name in sorted(report["missing_keys"])]
    if problems := [*missing, *mismatched, *map(str, report["error_msgs"])]:
        raise UserError(
            f"model.init_args.backbone.path: the weights at {backbone.path!r} do not fit its "
            f"{backbone.described_by}: {'; '.join(problems[:3])} ({len(problems)} in all); "
            f"{_what_to_do(backbone)}"
        )
    if unused := sorted(report["unexpected_keys"]):
        rank_zero_warn(
            f"{len(unused)} tensors at {backbone.path!r} are not used by a model of its "
            f"config.json: {', '.join(unused[:3])}"
        )


def load_meta_model(backbone: Backbone, *, quantized: bool = True) -> PreTrainedModel:
    """Build the architecture of a backbone on the meta device: shapes, no memory.

    Args:
        backbone: Which model.
        quantized: False gives a quantized model as it is after dequantization.

    Returns:
        The model with all parameters on the meta device.

    Raises:
        UserError: If the values in `config.json` are invalid.
    """
    config = load_config(backbone)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                config, trust_remote_code=backbone.trust_remote_code, dtype=DTYPES[backbone.dtype]
            )
        quantization = backbone.quantization or getattr(config, "quantization_config", None)
        if quantized and quantization is not None and backbone.gguf_file is None:
            quantize_shapes(model, quantization, DTYPES[backbone.dtype])
    except Exception as error:  # the code of a model raises anything for invalid values
        raise UserError(
            f"model.init_args.backbone.path: no causal language model can be built from the "
            f"config.json of {backbone.path!r} ({_first_line(error)}); {_what_to_do(backbone)}"
        ) from error
    return model


def add_adapter(
    model: PreTrainedModel, adapter: PeftConfig, revision: str | None = None
) -> PeftModel:
    """Freeze a model and inject an adapter into it.

    Args:
        model: The base model; changed in place, as PEFT does.
        adapter: Configuration of the adapter; copied, not changed.
        revision: Commit, tag or branch of the model on the Hub, for the adapter's configuration.

    Returns:
        The adapted model. Only parameters of the adapter require a gradient.

    Raises:
        UserError: If the adapter does not fit the model.
    """
    adapter = copy.deepcopy(adapter)
    if adapter.task_type not in {None, "CAUSAL_LM"}:
        raise UserError(f"task_type is {adapter.task_type}: expected CAUSAL_LM, or null")
    adapter.task_type = "CAUSAL_LM"
    tokens = getattr(adapter, "num_virtual_tokens", 1)
    if adapter.is_prompt_learning and (tokens is None or tokens < 1):
        raise UserError(f"num_virtual_tokens is {tokens}: expected at least 1")
    chosen = choose_targets(model, adapter)
    check_targets(model, adapter)
    if chosen and model.device.type != "meta":  # a run tries the adapter without weights first
        rank_zero_warn(chosen)
    # Lightning builds models under `torch.device("cuda")`, where PEFT would draw the projections
    # of VeRA and RandLoRA with a generator of the CPU.
    with torch.device("cpu"):
        try:
            adapted = inject(model, adapter, revision)
        except NoMatchingPeftModuleError as error:
            raise UserError(" ".join(str(error).split())) from error
    return adapted if model.device.type == "meta" else adapted.to(model.device)


def prepare_training(model: Any, backbone: Backbone) -> Any:
    """Set a model to training mode, with gradient checkpointing if the backbone has it.

    Args:
        model: The model, with or without an adapter; changed in place.
        backbone: Its settings.

    Returns:
        The model.
    """
    if backbone.gradient_checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train()


def _what_to_do(backbone: Backbone) -> str:
    if Path(locate(backbone.path)).exists():
        return "complete the folder, or set model.init_args.backbone.path to another"
    return how_to_download(backbone.path, backbone.revision)


def _first_line(error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError):  # torch's message advises to execute it
        return "a pickle that holds more than tensors, which is not executed"
    return " ".join(str(error).split())[:200] or type(error).__name__
