"""Check that training changes the trainable parameters."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from tera_pl.distributed.fsdp2 import any_rank
from tera_pl.errors import UserError

# A tensor is divided into this many parts, and two entries of each are compared.
PARTS = 32


class PrecisionGuard(Callback):
    """Refuse precisions in which trainable parameters cannot change, and check that they change.

    A trainer with `bf16-true` or `16-true` casts the adapter to 16 bits. Between 1 and 2, bfloat16
    has steps of 2^-7: an optimizer step of 1e-3 rounds to zero. After the first optimizer step
    with a nonzero learning rate, every trainable parameter that had a gradient must have changed.
    Up to 96 entries of each are compared, among them those with the largest gradients: a copy of
    all entries would be a copy of the model in full fine-tuning.
    """

    def __init__(self) -> None:
        self._before: dict[str, tuple[Tensor, Tensor, Tensor]] | None = None
        self._done = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse 16-bit trainable parameters before anything is loaded."""
        if stage == "fit" and trainer.precision in {"bf16-true", "16-true"}:
            raise UserError(
                f"trainer.precision: {trainer.precision} would round the trainable parameters to "
                "16 bits, where steps near one vanish: use 32-true and set "
                "model.init_args.backbone.dtype to bfloat16 for a 16-bit base"
            )

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Copy entries of the trainable parameters before the first step with a learning rate."""
        # A warm-up starts at a rate of zero: its first step changes nothing.
        if self._done or not any(group["lr"] for group in optimizer.param_groups):
            return
        self._before = {}
        for name, parameter in pl_module.named_parameters():
            if parameter.requires_grad and parameter.grad is not None:
                values, gradient = _flat(parameter), _flat(parameter.grad)
                places = _places(gradient)
                self._before[name] = places, values[places], gradient[places]

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Compare the entries after that step."""
        if self._before is None:
            return
        before, self._before, self._done = self._before, None, True
        stuck = _stuck(before, dict(pl_module.named_parameters()))
        if any_rank(bool(stuck), pl_module.device):
            example = f", for example {stuck[0]}" if stuck else " in another process"
            raise UserError(
                f"{len(stuck)} trainable parameters had a gradient but did not move in the first "
                f"optimizer step{example}: raise model.init_args.optimizer.init_args.lr, or train "
                "in float32 (model.init_args.backbone.dtype float32, trainer.precision bf16-mixed "
                "for full fine-tuning)"
            )


def _flat(tensor: Tensor) -> Tensor:
    """Flatten the local shard of a tensor."""
    tensor = tensor.detach()
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).reshape(-1)


def _places(gradient: Tensor) -> Tensor:
    """Indices of the largest and the smallest entry of each part, and of the remaining entries."""
    length = gradient.numel() // PARTS
    last = torch.arange(PARTS * length, gradient.numel(), device=gradient.device)
    if not length:
        return last
    parts = gradient[: PARTS * length].view(PARTS, length)
    starts = torch.arange(0, PARTS * length, length, device=gradient.device)
    # `abs` would allocate a tensor of the size of the gradient.
    return torch.cat([starts + parts.argmax(1), starts + parts.argmin(1), last])


def _stuck(
    before: dict[str, tuple[Tensor, Tensor, Tensor]], parameters: dict[str, nn.Parameter]
) -> list[str]:
    """Name the parameters that had a gradient and did not change."""
    if not before:
        return []
    flags = [
        gradient.any()
        & gradient.isfinite().all()
        & (_flat(parameters[name])[places] == values).all()
        for name, (places, values, gradient) in before.items()
    ]
    # One synchronization with the device, not one per tensor.
    found = torch.stack(flags).tolist()
    return [
        f"{name} ({parameters[name].dtype})"
        for name, stuck in zip(before, found, strict=True)
        if stuck
    ]
