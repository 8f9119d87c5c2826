"""Convert the adapter of any method to a LoRA adapter, which servers of models can load."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel

from tera_pl.analysis.delta_weights import adapted_layers
from tera_pl.analysis.low_rank import Decomposition, check_convertible, decompose, is_conv1d
from tera_pl.checkpointing.trained_model import TrainedModel
from tera_pl.errors import UserError
from tera_pl.export.validation_loss import ValidationLoss
from tera_pl.models.backbone import add_adapter
from tera_pl.progress import track

# The largest `--max-lora-rank` of vLLM.
LARGEST_RANK = 512
ENERGY = 0.99


@dataclass(frozen=True)
class LoraSettings:
    """How large the LoRA adapter is, and what it is compared on.

    Args:
        rank: Its rank, the same in every layer; None for the smallest that keeps `energy`.
        energy: Share of the squared Frobenius norm that every layer's weight update keeps.
        config: A configuration on whose validation split the loss is computed before and after;
            its classes are run, so it must be trusted.
    """

    rank: int | None = None
    energy: float = ENERGY
    config: Path | None = None


def convert(
    trained: TrainedModel, settings: LoraSettings, validation: ValidationLoss | None = None
) -> dict[str, Any]:
    """Replace the adapter of a model by a LoRA adapter that approximates it best.

    Args:
        trained: The adapted model; its `model` is replaced.
        settings: The size of the LoRA adapter.
        validation: Computes the loss of both; None leaves it out.

    Returns:
        Rank, the smallest energy of a layer, the validation loss before and after, and for every
        layer the energy kept and the rank that it needs for `settings.energy`.

    Raises:
        UserError: If the adapter cannot be converted, or the rank is too large.
    """
    model, adapter = trained.model, trained.adapter
    check_convertible(model)
    before = None if validation is None else validation.of(trained)
    found = _decompose_all(model)
    rank = _choose_rank(found, settings)
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,  # a scaling of one
        target_modules=_targets(model, list(found)),
        modules_to_save=getattr(adapter, "modules_to_save", None),
        fan_in_fan_out=is_conv1d(model),
    )
    revision = model.active_peft_config.revision
    trained.model = add_adapter(model.unload(), config, revision).eval()
    with torch.no_grad():
        for name, layer in adapted_layers(trained.model).items():
            left, right = found[name].factors(rank)
            layer.lora_B["default"].weight.copy_(left)
            layer.lora_A["default"].weight.copy_(right)
    energies = {name: parts.energy(rank) for name, parts in found.items()}
    return {
        "rank": rank,
        "smallest_energy": min(energies.values()),
        "validation_loss_before": before,
        "validation_loss_after": None if validation is None else validation.of(trained),
        "energy_of_auto": settings.energy,
        "layers": {
            name: {"energy": energies[name], "rank_of_auto": parts.rank_for(settings.energy)}
            for name, parts in found.items()
        },
    }


def _decompose_all(model: PeftModel) -> dict[str, Decomposition]:
    found = {}
    for name, layer in track(list(adapted_layers(model).items()), "decomposing layers"):
        try:
            found[name] = decompose(layer, LARGEST_RANK)
        except UserError as error:
            raise UserError(f"--as lora: {name}: {error}") from error
    return found


def _choose_rank(found: dict[str, Decomposition], settings: LoraSettings) -> int:
    """Give the rank that was asked for, or the smallest that keeps the energy in every layer."""
    full = max(len(parts.values) for parts in found.values())
    if settings.rank is not None:
        if settings.rank > full:
            raise UserError(
                f"--rank is {settings.rank}: no adapted layer has a rank above {full}: expected at "
                "most that"
            )
        return settings.rank
    rank = max(parts.rank_for(settings.energy) for parts in found.values())
    if rank > LARGEST_RANK:
        name, parts = min(found.items(), key=lambda item: item[1].energy(LARGEST_RANK))
        raise UserError(
            f"--energy {settings.energy:g} needs rank {rank}, above the {LARGEST_RANK} that vLLM "
            f"serves, which keeps {parts.energy(LARGEST_RANK):.4f} in every layer (the least is "
            f"that of {name}): give --rank {LARGEST_RANK} or a lower --energy"
        )
    return rank


def _targets(model: PeftModel, names: list[str]) -> list[str]:
    """Name the adapted layers by the last part of their names, where it names no other layer."""
    last = {name.rpartition(".")[2] for name in names}
    layers = {name.removeprefix("base_model.model.") for name, _ in model.named_modules()}
    named = {name for name in layers if name.rpartition(".")[2] in last}
    return sorted(last if named == set(names) else names)
