"""Vectors that start at one do not move in 16 bits: refused before, detected after."""

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

from tera_pl.callbacks import PrecisionGuard
from tera_pl.callbacks.precision_guard import PARTS, _places


class Vector(LightningModule):
    """One vector of ones; its loss pulls some entries down at a small rate."""

    def __init__(
        self, dtype: torch.dtype, lr: float, size: int = 8, pulled: slice = slice(None)
    ) -> None:
        super().__init__()
        self.vector = torch.nn.Parameter(torch.ones(size, dtype=dtype))
        self.lr, self.pulled = lr, pulled

    def training_step(self, batch, batch_idx):
        return self.vector[self.pulled].float().sum()

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
        ValueError, match=r"1 trainable parameters had a gradient but did not move.*vector"
    ):
        fit(Vector(torch.bfloat16, 1e-3), tmp_path)


def test_vector_in_bfloat16_with_a_large_step_passes(tmp_path):
    fit(Vector(torch.bfloat16, 0.1), tmp_path)


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_true_half_precision_is_refused(precision, tmp_path):
    with pytest.raises(ValueError, match=f"trainer.precision: {precision} .*use 32-true"):
        fit(Vector(torch.float32, 1e-3), tmp_path, precision=precision)


@pytest.mark.parametrize("size", [1, 31, 32, 33, 1000])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("place", [0, 0.5, 0.999])
def test_one_gradient_in_a_large_tensor_is_seen(place, sign, size):
    """As of an embedding, of which a batch has few rows."""
    gradient = torch.zeros(size)
    gradient[int(place * size)] = sign
    places = _places(gradient)
    assert gradient[places].any()
    assert len(places) <= 3 * PARTS
    assert places.max() < size


def test_stuck_entry_of_a_large_tensor_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="did not move"):
        fit(Vector(torch.bfloat16, 1e-3, 5000, slice(1234, 1235)), tmp_path)
    fit(Vector(torch.float32, 1e-3, 5000, slice(1234, 1235)), tmp_path)


def test_tensor_without_a_gradient_may_stay(tmp_path):
    fit(Vector(torch.bfloat16, 1e-3, 5000, slice(0, 0)), tmp_path)
