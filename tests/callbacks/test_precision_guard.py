"""Vectors that start at one do not move in 16 bits: refused before, detected after."""

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

from tera_pl.callbacks import PrecisionGuard


class Vector(LightningModule):
    """One vector of ones; its loss pulls it down at a small rate."""

    def __init__(self, dtype: torch.dtype, lr: float) -> None:
        super().__init__()
        self.vector = torch.nn.Parameter(torch.ones(8, dtype=dtype))
        self.lr = lr

    def training_step(self, batch, batch_idx):
        return self.vector.float().sum()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=0.0)


def fit(module, tmp_path, **kwargs):
    trainer = Trainer(
        max_steps=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        callbacks=[PrecisionGuard()],
        **kwargs,
    )
    trainer.fit(module, DataLoader(range(4), batch_size=1))


def test_vector_in_float32_moves(tmp_path):
    fit(Vector(torch.float32, 1e-3), tmp_path)


def test_vector_in_bfloat16_that_cannot_move_is_an_error(tmp_path):
    with pytest.raises(
        ValueError, match=r"1 trained tensors had a gradient but did not move.*vector"
    ):
        fit(Vector(torch.bfloat16, 1e-3), tmp_path)


def test_vector_in_bfloat16_with_a_large_step_passes(tmp_path):
    fit(Vector(torch.bfloat16, 0.1), tmp_path)


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_true_half_precision_is_refused(precision, tmp_path):
    with pytest.raises(ValueError, match=f"trainer.precision: {precision} .*use 32-true"):
        fit(Vector(torch.float32, 1e-3), tmp_path, precision=precision)
