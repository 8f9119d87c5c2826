"""The precision of float32 matrix products during training."""

from typing import Literal

import torch
from lightning.pytorch import LightningModule, Trainer

from tera_pl.callbacks.process_settings import ProcessSettings


class MatmulPrecision(ProcessSettings):
    """Set the precision of float32 matrix products in `fit` on an accelerator.

    HiRA, DoRA and RandLoRA compute float32 matrices of the size of the weights in every step; an
    A100 multiplies in full float32 at a sixteenth of the speed of TF32. Weight updates, ranks,
    merging and export always use full precision, and so do `validate`, `test` and `predict`. On a
    CPU nothing changes.

    Args:
        float32: As in `torch.set_float32_matmul_precision`: `high` uses TF32 where the hardware has
            it, `highest` multiplies in full float32.
    """

    def __init__(self, float32: Literal["highest", "high", "medium"] = "high") -> None:
        super().__init__()
        self.float32 = float32

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Set the precision for `fit` on an accelerator."""
        if stage == "fit" and trainer.strategy.root_device.type != "cpu":
            before = torch.get_float32_matmul_precision()
            self._restore.callback(torch.set_float32_matmul_precision, before)
            torch.set_float32_matmul_precision(self.float32)
