"""Quantized base models: settings, loading, shapes without memory, and their identity."""

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.auto import AutoHfQuantizer, AutoQuantizationConfig
from transformers.utils import logging
from transformers.utils.quantization_config import BitsAndBytesConfig, QuantizationConfigMixin

from tera_pl.adapters.quantized import quantized_layers
from tera_pl.errors import UserError
from tera_pl.extras import require
from tera_pl.models.hub import weight_files
from tera_pl.tensor.checksums import digest_tensor

KEY = "model.init_args.backbone.quantization"
# The attribute of a loaded model with the hash of the weights before they were quantized.
SOURCE = "source_sha256"


def check_quantization(
    quantization: QuantizationConfigMixin | None, config: PretrainedConfig, *, pretrained: bool
) -> None:
    """Refuse settings of a quantized base that cannot be trained, before weights are read.

    Args:
        quantization: `backbone.quantization`, or None.
        config: Configuration of the model; may say that its files are quantized already.
        pretrained: Whether there are weights to quantize.

    Raises:
        UserError: If they cannot, or a package is missing.
    """
    stored = getattr(config, "quantization_config", None)
    if quantization is None:
        if isinstance(stored, Mapping) and "load_in_4bit" in stored:
            require("bitsandbytes", "the quantized model at model.init_args.backbone.path")
        return
    if stored is not None:
        raise UserError(f"{KEY}: the files of the model are quantized already: remove it")
    if not pretrained:
        raise UserError(f"{KEY}: a model that is not pretrained has no weights to quantize")
    if isinstance(quantization, BitsAndBytesConfig):
        _check_bitsandbytes(quantization)


def _check_bitsandbytes(quantization: BitsAndBytesConfig) -> None:
    require("bitsandbytes", KEY)
    if not (quantization.load_in_4bit or quantization.load_in_8bit):
        raise UserError(f"{KEY}: expected load_in_4bit or load_in_8bit to be true")
    if quantization.quantization_method() is None:
        raise UserError(
            f"{KEY}.init_args.bnb_4bit_quant_type is {quantization.bnb_4bit_quant_type!r}: "
            "expected nf4 or fp4"
        )
    for name in ("llm_int8_has_fp16_weight", "llm_int8_enable_fp32_cpu_offload"):
        if getattr(quantization, name):
            raise UserError(
                f"{KEY}.init_args.{name} is true: expected false: the weights would not be "
                "quantized, or not on the device of the run"
            )


def settings_of(quantization: QuantizationConfigMixin | None) -> dict[str, Any] | None:
    """Give the settings of a quantization as plain values.

    Args:
        quantization: The settings as an object, or None.

    Returns:
        What `read_settings` reads, or None.
    """
    if quantization is None:
        return None
    settings = {k: v for k, v in quantization.to_dict().items() if not k.startswith("_")}
    return json.loads(json.dumps(settings, default=str, sort_keys=True))


def read_settings(settings: Any) -> QuantizationConfigMixin | None:
    """Build the settings of a quantization from untrusted plain values.

    Args:
        settings: Result of `settings_of`, from a file.

    Returns:
        The settings as an object; their class is one of transformers, chosen by `quant_method`.

    Raises:
        UserError: If they are invalid.
    """
    if settings is None:
        return None
    try:
        return AutoQuantizationConfig.from_dict(dict(settings))
    except Exception as error:  # any, from values of an untrusted file
        reason = " ".join(str(error).split())
        raise UserError(f"--ckpt_path: the checkpoint's backbone.quantization: {reason}") from error


def loading_arguments(quantization: QuantizationConfigMixin | None) -> dict[str, Any]:
    """Give the arguments of `from_pretrained` that quantize a model while it loads.

    Args:
        quantization: The settings, or None.

    Returns:
        The arguments; empty without quantization.
    """
    if quantization is None:
        return {}
    # transformers changes the object, and by itself would choose a GPU wherever there is one.
    device = torch.get_default_device()
    return {"quantization_config": copy.deepcopy(quantization), "device_map": {"": device}}


def prepare_quantized(model: PreTrainedModel, folder: Path | None, dtype: torch.dtype) -> None:
    """Make a model that was loaded fit for training, and store the hash of its source.

    Where the processor has AVX512_BF16, a 4-bit layer of bitsandbytes converts its weight for
    inference at the first validation, in place: with rounded scales, products in bfloat16, and
    without gradients. Validation would change training, so this is switched off.

    Args:
        model: The model; changed in place if it is quantized.
        folder: Folder of its files, or None if unknown.
        dtype: Type of the weights before they were quantized.
    """
    layers = quantized_layers(model)
    for layer in layers.values():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
    if layers and folder is not None:
        setattr(model, SOURCE, _digest_source(folder, dtype))


def quantize_shapes(model: PreTrainedModel, quantization: Any, dtype: torch.dtype) -> None:
    """Quantize a model on the meta device, where only shapes and types exist.

    Args:
        model: The model; changed in place.
        quantization: The settings: an object, or what a `config.json` has.
        dtype: Type of the weights before they are quantized.
    """
    quantizer = AutoHfQuantizer.from_config(quantization, pre_quantized=False)
    quantizer.preprocess_model(model=model, device_map={"": "meta"}, dtype=dtype)
    if not isinstance(quantizer.quantization_config, BitsAndBytesConfig):
        return
    for layer in quantized_layers(model).values():
        _quantize_shape(layer, dtype)


def _quantize_shape(layer: Any, dtype: torch.dtype) -> None:
    """Do to a layer what bitsandbytes does when it moves to a device with values."""
    from bitsandbytes.functional import int8_vectorwise_quant, quantize_4bit

    weight = layer.weight
    if layer.bias is not None:
        layer.bias.data = layer.bias.data.to(dtype)
    if hasattr(layer, "state"):
        weight.data, weight.SCB, _ = int8_vectorwise_quant(weight.data.to(torch.float16))
        weight.CB = weight.data
        layer.state.threshold = 0.0  # how many columns have outliers depends on values
        return
    # The second level reads a value, which the meta device does not have.
    weight.data, state = quantize_4bit(
        weight.data.to(dtype),
        blocksize=weight.blocksize,
        quant_type=weight.quant_type,
        quant_storage=weight.quant_storage,
    )
    if weight.compress_statistics:
        _nest(state)
    weight.quant_state = layer.quant_state = state
    weight.bnb_quantized = True


def _nest(state: Any) -> None:
    """Quantize the scales of blocks, 256 of them with one scale, as `quantize_4bit` does."""
    from bitsandbytes.functional import QuantState

    blocks, device = state.absmax.numel(), state.absmax.device
    state.state2 = QuantState(  # type: ignore[no-untyped-call]
        absmax=torch.empty(-(-blocks // 256), device=device),
        code=torch.empty(256, device=device),
        blocksize=256,
        dtype=torch.float32,
    )
    state.offset = torch.zeros((), device="cpu")  # saving reads its value
    state.absmax = torch.empty(blocks, dtype=torch.uint8, device=device)
    state.nested = True


def dequantize(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Replace the quantized layers of a model by floating-point ones with the same weights.

    Args:
        model: The quantized model without an adapter; changed in place.
        dtype: Type of the weights.

    Returns:
        The model, which can be saved as any other.

    Raises:
        UserError: If transformers cannot dequantize this kind of quantization.
    """
    transposed = [
        name
        for name, layer in quantized_layers(model).items()
        if getattr(layer, "source_cls", None) is Conv1D
    ]
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it reports the dtype that is given here
    try:
        model.dequantize(dtype)
    except NotImplementedError as error:
        raise UserError(f"--dequantize: {error}") from error
    finally:
        logging.set_verbosity(verbosity)
    for name in transposed:  # transformers leaves a Linear where the model had a Conv1D
        linear: Any = model.get_submodule(name)
        layer = Conv1D(*linear.weight.shape)
        layer.weight = nn.Parameter(linear.weight.T.contiguous())
        layer.bias = linear.bias
        model.set_submodule(name, layer)
    return model


def _digest_source(folder: Path, dtype: torch.dtype) -> str:
    """Hash the tensors in the files of a model, in the type in which they are quantized.

    The quantized values depend on the kind of device that computed them, in a few last bits.
    """

    def digest(entry: tuple[str, Any]) -> str:
        name, read = entry
        tensor = read()
        tensor = tensor.to(dtype) if tensor.is_floating_point() else tensor
        return f"{name} {digest_tensor(tensor)}\n"

    # Tensors are read within the threads: not all are in memory at once.
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        lines = sorted(pool.map(digest, _stored(folder)))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _stored(folder: Path) -> Iterator[tuple[str, Any]]:
    """Iterate over the tensors in the files of a model, each as a function that reads it."""
    for path in weight_files(folder):
        if path.suffix == ".safetensors":
            file = safe_open(path, framework="pt")
            keys: Any = file.keys()  # type: ignore[no-untyped-call]
            yield from ((key, _reader(file, key)) for key in keys)
        else:
            state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
            yield from ((key, _constant(value)) for key, value in state.items())


def _reader(file: Any, key: str) -> Any:
    return lambda: file.get_tensor(key)


def _constant(value: Tensor) -> Any:
    return lambda: value


def source_of(model: Any) -> str | None:
    """Give the hash of the weights of a quantized model before they were quantized.

    Args:
        model: A model that `prepare_quantized` has seen, adapted or not.

    Returns:
        The hash, or None for a model that is not quantized.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return getattr(base, SOURCE, None)
