"""The best approximation of a weight update by a product of two small factors."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTuner
from peft.utils.other import ModulesToSaveWrapper
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tera_pl.analysis.delta_weights import (
    adapted_layers,
    delta_weight_shape,
    layer_delta_weight,
    tuner_layers,
)
from tera_pl.errors import UserError
from tera_pl.tensor import full_float32


@dataclass(frozen=True)
class Decomposition:
    """The singular value decomposition of a weight update, with its first singular vectors.

    By Eckart and Young (1936) its first `r` terms are the best approximation of rank `r`.

    Args:
        left: Left singular vectors, `(out_features, k)`.
        values: All singular values in descending order, `(min(out_features, in_features),)`.
        right: Right singular vectors, `(k, in_features)`.
    """

    left: Tensor
    values: Tensor
    right: Tensor

    def energy(self, rank: int) -> float:
        """Compute the share of the squared Frobenius norm that an approximation keeps.

        Args:
            rank: Its rank.

        Returns:
            `||DeltaW_r||_F^2 / ||DeltaW||_F^2`; 1 for a weight update of zero.
        """
        shares = self._shares()
        return shares[min(rank, len(shares)) - 1].item() if rank else 0.0

    def rank_for(self, energy: float) -> int:
        """Find the smallest rank that keeps a share of the squared Frobenius norm.

        Args:
            energy: The share, above 0 and at most 1.

        Returns:
            The rank, at least 1.
        """
        return int((self._shares() < energy).sum()) + 1

    def factors(self, rank: int) -> tuple[Tensor, Tensor]:
        """Give the factors of the best approximation, as LoRA's B and A.

        Each has the roots of the singular values, so that neither has entries that underflow in
        float16. A rank above that of the matrix adds zeros.

        Args:
            rank: Number of columns of the first and rows of the second, at most `k` or at least the
                number of singular values.

        Returns:
            Factors `(out_features, rank)` and `(rank, in_features)`.
        """
        kept = min(rank, len(self.values))
        roots = self.values[:kept].sqrt()
        left, right = self.left[:, :kept] * roots, roots.unsqueeze(1) * self.right[:kept]
        missing = rank - kept
        return nn.functional.pad(left, (0, missing)), nn.functional.pad(right, (0, 0, 0, missing))

    def _shares(self) -> Tensor:
        squares = self.values.double().square()
        total = squares.sum()
        # The sum of all of them is exactly one, whatever the order of summation.
        shares = squares.cumsum(0) / total if total > 0 else torch.ones_like(squares)
        shares[-1] = 1.0
        return shares


def check_convertible(model: PeftModel) -> None:
    """Refuse an adapter that is more than weight updates of linear layers.

    Args:
        model: An adapted model on any device, the meta device included; not changed.

    Raises:
        UserError: If LoRA cannot express what the adapter trains.
    """
    config = model.active_peft_config
    kind = getattr(config.peft_type, "value", config.peft_type)
    if config.is_prompt_learning or not isinstance(model.base_model, BaseTuner):
        raise UserError(f"--as lora: {kind} changes no weight matrix: export it as it is")
    matrices = adapted_layers(model)
    for name, layer in tuner_layers(model).items():
        base = layer.get_base_layer()
        if name not in matrices or isinstance(base, nn.Embedding):
            raise UserError(
                f"--as lora: {name} is of type {type(base).__name__}: expected linear layers only"
            )
    if others := sorted(_trained_elsewhere(model)):
        raise UserError(
            f"--as lora: {kind} trains {others[0]} ({len(others)} such parameters), which is "
            "outside of the weight updates: use --merge"
        )


@torch.no_grad()
@full_float32()
def decompose(layer: Any, largest: int, adapter_name: str = "default") -> Decomposition:
    """Decompose the weight update of a layer, on the device of the layer.

    Args:
        layer: An adapted linear layer.
        largest: Number of singular vectors to keep.
        adapter_name: Which adapter.

    Returns:
        The decomposition, on the CPU.

    Raises:
        UserError: If what the adapter adds is not a weight update alone, or is not finite.
    """
    base = layer.get_base_layer()
    nothing = base.weight.new_zeros(
        1, delta_weight_shape(layer)[1], dtype=_dtype_of_inputs(base.weight)
    )
    if not torch.equal(layer(nothing), base(nothing)):
        raise UserError("the adapter changes the bias, which LoRA cannot express: use --merge")
    delta = layer_delta_weight(layer, adapter_name)
    if not torch.isfinite(delta).all():
        raise UserError("its weight update has NaN or infinite entries")
    left, values, right = torch.linalg.svd(delta, full_matrices=False)
    # Copies: a slice would keep the complete matrix in memory.
    kept = left[:, :largest].cpu().clone(), values.cpu(), right[:largest].cpu().clone()
    return Decomposition(*kept)


def is_conv1d(model: nn.Module) -> bool:
    """Check whether the adapted layers are `Conv1D`, whose weights are transposed."""
    return any(isinstance(x.get_base_layer(), Conv1D) for x in adapted_layers(model).values())


def _dtype_of_inputs(weight: Tensor) -> torch.dtype:
    is_quantized = not weight.is_floating_point() or weight.element_size() == 1
    return torch.float32 if is_quantized else weight.dtype


def _trained_elsewhere(model: PeftModel) -> Iterator[str]:
    """Yield trained parameters that are neither of an adapter's layer nor fully saved modules."""
    known = set()
    for layer in adapted_layers(model).values():
        frozen = {id(p) for p in layer.get_base_layer().parameters()}
        known |= {id(p) for p in layer.parameters()} - frozen
    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper):
            known |= {id(p) for p in module.parameters()}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in known:
            yield name
