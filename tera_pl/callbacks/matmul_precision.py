"""How exact float32 products are during training."""

from typing import Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class MatmulPrecision(Callback):
    """Let an accelerator round what it multiplies in `fit`.

    HiRA, DoRA and RandLoRA make float32 matrices of the size of the weights in every step; an A100
    multiplies float32 in full at a sixteenth of the speed of TF32. What is compared, stored or
    decomposed (weight updates, ranks, merging, export) is in full whatever this says, and so are
    `validate`, `test` and `predict`. On a CPU nothing changes.

    Args:
        float32: As in `torch.set_float32_matmul_precision`: `high` takes TF32 where there is such a
            unit, `highest` multiplies in full.
    """

    def __init__(self, float32: Literal["highest", "high", "medium"] = "high") -> None:
        self.float32 = float32
        self._before: str | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Set it for `fit` on an accelerator."""
        if stage == "fit" and trainer.strategy.root_device.type != "cpu":
            self._before = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision(self.float32)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Set it back."""
        self._restore()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Set it back."""
        self._restore()

    def _restore(self) -> None:
        if self._before is not None:
            torch.set_float32_matmul_precision(self._before)
            self._before = None
