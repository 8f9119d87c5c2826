"""Choose the attention of a backbone."""

from transformers import PretrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tera_pl.errors import UserError
from tera_pl.models.packed_attention import ATTENTION

AUTO = "auto"
KEY = "model.init_args.backbone.attn_implementation"
# Model types whose packed logits are those of one sequence after the other, by
# `tests/models/test_architectures.py`. For others packing may be wrong without an error: other
# layers may mix tokens too, and not every model passes the lengths on to its attention.
PACKABLE = {
    "arcee",
    "cohere",
    "cohere2",
    "ernie4_5",
    "exaone4",
    "gemma",
    "gemma3_text",
    "glm",
    "glm4",
    "gpt2",
    "gpt_bigcode",
    "gpt_neox",
    "granite",
    "helium",
    "llama",
    "ministral",
    "mistral",
    "mixtral",
    "olmo",
    "olmo2",
    "olmo3",
    "olmoe",
    "opt",
    "phi",
    "phi3",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
    "seed_oss",
    "smollm3",
    "starcoder2",
}


def choose_attention(name: str | None, config: PretrainedConfig, trusted: bool) -> str | None:
    """Choose the attention of a model by the setting of its backbone.

    Args:
        name: `auto`, or what is returned unchanged.
        config: Configuration of the model.
        trusted: Whether code that comes with the model runs.

    Returns:
        A name for transformers, or None for its default. `auto` is packed attention where that is
        exact.
    """
    if name != AUTO:
        return name
    return None if why_not_packed(config, trusted) else ATTENTION


def check_attention(name: str | None, config: PretrainedConfig, trusted: bool) -> None:
    """Refuse attention that does not exist, or would change what a model computes.

    Args:
        name: The setting of the backbone.
        config: Configuration of the model.
        trusted: Whether code that comes with the model runs.

    Raises:
        UserError: If it is unknown, or packed attention is not exact for the model.
    """
    reason = why_not_packed(config, trusted)
    if name == ATTENTION and reason:
        raise UserError(f"{KEY} is {ATTENTION}, but {reason}: expected auto, null, sdpa or eager")
    kernels = {AUTO, "eager", *ALL_ATTENTION_FUNCTIONS.valid_keys()}
    # A name with a slash is a kernel on the Hub.
    if name is not None and name not in kernels and "/" not in name:
        raise UserError(
            f"{KEY} is {name!r}: expected one of "
            f"{', '.join(sorted(k for k in kernels if '|' not in k))}"
        )


def why_not_packed(config: PretrainedConfig, trusted: bool) -> str | None:
    """Explain why packed attention is not used for a model.

    Args:
        config: Configuration of the model.
        trusted: Whether code that comes with the model runs.

    Returns:
        A clause, or None if packed attention is exact.
    """
    kind = config.model_type
    if getattr(config, "attn_logit_softcapping", None):
        return f"the attention of {kind} has soft caps (attn_logit_softcapping)"
    if getattr(config, "use_bidirectional_attention", None):
        return f"the attention of {kind} is not causal (use_bidirectional_attention)"
    if trusted and "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {}):
        return f"the attention of this {kind} is in code that comes with the model"
    if kind not in PACKABLE:
        return f"packed attention is not known to be exact for {kind}"
    return None
