"""Cache the delta weights of a model for many calls without training, as generation makes them."""

from torch import nn

from tera_pl.adapters.layer import AdapterLayer


def cache_delta_weights(model: nn.Module) -> None:
    """Cache the delta weight of every adapted layer whose method supports it.

    Args:
        model: A model with adapters. Its parameters must not change until
            `clear_cached_delta_weights`.
    """
    for module in model.modules():
        if isinstance(module, AdapterLayer):
            module.cache_delta_weight()


def clear_cached_delta_weights(model: nn.Module) -> None:
    """Drop what `cache_delta_weights` cached.

    Args:
        model: The model.
    """
    for module in model.modules():
        if isinstance(module, AdapterLayer):
            module.clear_cached_delta_weight()
