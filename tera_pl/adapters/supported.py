"""Which methods of PEFT can be trained here, checked before any weight is loaded."""

from typing import Any

from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn

from tera_pl.adapters.initialization import remember_initialization, sample_weights
from tera_pl.adapters.quantized_methods import check_quantized_method
from tera_pl.errors import UserError

# Methods that need a training loop of their own, which no attribute of the method declares. Without
# it they train, but not what their papers describe.
UNSUPPORTED = {
    "ADALORA": "it moves ranks between layers after every step (update_and_allocate) and adds an "
    "orthogonality term to the loss, both in a training loop of its own",
    "MULTITASK_PROMPT_TUNING": "it needs the number of the task of every example (task_ids)",
    "POLY": "it needs the number of the task of every example (task_ids)",
    "XLORA": "it mixes LoRA adapters that were trained before",
}
# The same for settings: method, name of the setting, whether its value is unsupported, reason.
UNSUPPORTED_SETTINGS = (
    ("ADAMSS", "use_asa", bool, "masks change in a training loop of its own"),
    ("CPT", "opt_weighted_loss_type", lambda v: v != "none", "PEFT weighs the loss in its forward"),
    ("SHADOW", "auxiliary_loss_weight", bool, "PEFT adds to the loss in its forward; set it to 0"),
    (
        "LORA",
        "init_lora_weights",
        lambda v: v in ("eva", "lora_ga") or str(v).startswith("corda"),
        "it reads data before training",
    ),
)


class NeedsWeightsError(UserError):
    """A method is initialized from weights, which a model on the meta device does not have."""


def inject(model: Any, config: PeftConfig, revision: str | None = None) -> PeftModel:
    """Inject an adapter into a model and store initial adapters that change base weights.

    Args:
        model: The base model; changed in place, as PEFT does. On the meta device this checks that
            the adapter fits, at no cost.
        config: Configuration of any PEFT method.
        revision: Commit, tag or branch of the model on the Hub, written beside its name.

    Returns:
        The adapted model.

    Raises:
        NeedsWeightsError: If the model is on the meta device and the method reads its weights.
        UserError: If the method cannot be trained here.
    """
    check_supported(config)
    check_quantized_method(model, config)
    before = sample_weights(model)
    try:
        adapted = get_peft_model(model, config, revision=revision)
    except Exception as error:
        if not is_from_meta(error, model):
            raise
        raise NeedsWeightsError(
            f"{type(config).__name__} is initialized from the weights: the architecture alone "
            "does not determine what it adds"
        ) from error
    remember_initialization(adapted, before)
    return adapted


def check_supported(config: PeftConfig) -> None:
    """Refuse a method that PEFT can inject but that would not train as in its paper.

    Args:
        config: Configuration of any PEFT method.

    Raises:
        UserError: If it needs something that a run does not provide.
    """
    kind = getattr(config.peft_type, "value", config.peft_type)
    name = type(config).__name__
    if kind in UNSUPPORTED:
        raise UserError(f"{name} cannot be trained here: {UNSUPPORTED[kind]}")
    for method, setting, needs_more, reason in UNSUPPORTED_SETTINGS:
        value = getattr(config, setting, None)
        if method == kind and needs_more(value):
            raise UserError(f"{name} cannot be trained here with {setting} {value!r}: {reason}")


def is_from_meta(error: Exception, model: nn.Module) -> bool:
    """Check whether an error comes from the meta device and not from the method.

    Args:
        error: The error.
        model: The model for which it was raised.

    Returns:
        True if the model is on the meta device and the error mentions it: some operations have
        no result without values.
    """
    on_meta = any(parameter.device.type == "meta" for parameter in model.parameters())
    # The second is of a copy of a 4-bit weight.
    reasons = ("meta", "incompatible tensor type")
    return on_meta and any(reason in str(error).lower() for reason in reasons)
