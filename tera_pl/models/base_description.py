"""Describe a base model by its architecture and origin."""

import hashlib
import json
from typing import Any, NotRequired, TypedDict

from transformers import PretrainedConfig

from tera_pl.config.shipped import locate
from tera_pl.models.backbone import Backbone
from tera_pl.models.hub import find_commit
from tera_pl.models.quantization import settings_of

# Values of a config.json that do not change what a model computes here: names, versions, caching,
# and special tokens, which come from the tokenizer.
IMMATERIAL = {
    "_model_name_or_path",
    "_name_or_path",
    "architectures",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "initializer_range",
    "pad_token_id",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}


class BaseDescription(TypedDict):
    """Architecture and origin of a base model."""

    path: str
    revision: str | None
    gguf_file: NotRequired[str]
    commit: str | None
    dtype: str
    pretrained: bool
    quantization: dict[str, Any] | None
    config: dict[str, Any]
    config_sha256: str


def describe_base(backbone: Backbone) -> BaseDescription:
    """Describe the architecture and origin of a backbone, for the run spec.

    Args:
        backbone: Which model.

    Returns:
        Values of its config.json that change what the model computes and their SHA-256, the type
        of its weights, whether they are pretrained, how they are quantized, path, revision, and
        the commit on the Hub or None.
    """
    # The raw file: defaults that transformers fills in change with its version.
    raw, _ = PretrainedConfig.get_config_dict(locate(backbone.path), **backbone.file_settings())
    config = {key: raw[key] for key in sorted(raw.keys() - IMMATERIAL)}
    described: BaseDescription = {
        "path": backbone.path,
        "revision": backbone.revision,
        "commit": find_commit(backbone.path, backbone.revision, backbone.described_by),
        "dtype": backbone.dtype,
        "pretrained": backbone.pretrained,
        "quantization": settings_of(backbone.quantization),
        "config": config,
        "config_sha256": hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest(),
    }
    # Left out for other formats, so that descriptions are equal to those of older versions.
    if backbone.gguf_file is not None:
        described["gguf_file"] = backbone.gguf_file
    return described
