"""Private names of transformers."""

from transformers import PreTrainedConfig, PreTrainedModel


def attention_implementation(config: PreTrainedConfig) -> str | None:
    """Read the name of the attention function of a model's text decoder.

    Args:
        config: Configuration of the model.

    Returns:
        The name that was given as `attn_implementation`, or transformers' choice.
    """
    return config.get_text_config()._attn_implementation


def unsplit_modules(model: PreTrainedModel) -> set[str]:
    """Read the class names of modules that must stay on one device: the decoder layers.

    Args:
        model: The model.

    Returns:
        Class names; empty if the model has none.
    """
    return set(getattr(model, "_no_split_modules", None) or ())
