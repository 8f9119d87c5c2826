"""Make sure that training moves what it is meant to move."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from tera_pl.errors import UserError


class PrecisionGuard(Callback):
    """Refuse precisions in which vectors that start at one cannot move, and check that they move.

    A trainer with `bf16-true` or `16-true` casts the adapter to 16 bits. Between 1 and 2, bfloat16
    has steps of 2^-7: an optimizer step of 1e-3 rounds to nothing. After the first optimizer step,
    every trained tensor that had a gradient and a learning rate must have changed.
    """

    def __init__(self) -> None:
        self._before: dict[str, Tensor] | None = None
        self._done = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse 16-bit vectors before anything is loaded."""
        if stage == "fit" and trainer.precision in {"bf16-true", "16-true"}:
            raise UserError(
                f"trainer.precision: {trainer.precision} would round the trained vectors to 16 "
                "bits, where steps near one vanish: use 32-true and set model.backbone.dtype to "
                "bfloat16 for a 16-bit base"
            )

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Remember the trained tensors before the first step with a learning rate."""
        # A warm-up starts at a rate of zero: its first step moves nothing, rightly.
        if self._done or not any(group["lr"] for group in optimizer.param_groups):
            return
        self._before = {
            name: p.detach().clone()
            for name, p in pl_module.named_parameters()
            if p.requires_grad and p.grad is not None and bool(p.grad.any())
        }

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Compare after that step."""
        if self._before is None:
            return
        after = dict(pl_module.named_parameters())
        stuck = [name for name, old in self._before.items() if torch.equal(after[name], old)]
        self._before, self._done = None, True
        if stuck:
            raise UserError(
                f"{len(stuck)} trained tensors had a gradient but did not move in the first "
                f"optimizer step, for example {stuck[0]} ({after[stuck[0]].dtype}): raise "
                "model.optimizer.lr or train in a wider type"
            )
