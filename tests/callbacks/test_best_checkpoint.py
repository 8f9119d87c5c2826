"""The best score is kept when a run resumes under another path, and so is the last state."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel

from tera_pl.callbacks import BestCheckpoint

ONE_FILE_EACH = {"save_on_train_epoch_end": False, "enable_version_counter": False}
FOLDER = "runs/x/version_0/checkpoints"


@pytest.fixture
def state():
    before = BestCheckpoint(dirpath=FOLDER, monitor="val/loss")
    before.best_model_score = torch.tensor(0.25)
    before.best_model_path = before.kth_best_model_path = f"{FOLDER}/best.ckpt"
    before.best_k_models = {before.best_model_path: torch.tensor(0.25)}
    before.last_model_path = f"{FOLDER}/last.ckpt"
    return before.state_dict() | {"dirpath": FOLDER}


def test_best_score_survives_a_move(tmp_path, state):
    (tmp_path / "best.ckpt").touch()
    (tmp_path / "last.ckpt").touch()
    after = BestCheckpoint(dirpath=tmp_path, monitor="val/loss")
    after.load_state_dict(state)
    best = str(tmp_path / "best.ckpt")
    assert after.best_model_score == 0.25
    assert after.best_model_path == after.kth_best_model_path == best
    assert after.best_k_models == {best: torch.tensor(0.25)}
    assert after.last_model_path == str(tmp_path / "last.ckpt")


def test_a_file_outside_that_is_named_as_if_it_were_inside_is_not_removed(tmp_path, state):
    """Lightning removes what a better checkpoint replaces, if its path begins with the folder's."""
    folder, victim = tmp_path / "run" / "checkpoints", tmp_path / "victim" / "model.ckpt"
    for path in (folder / "best.ckpt", victim):
        path.parent.mkdir(parents=True)
        path.touch()
    named = f"{folder}/../../victim/model.ckpt"
    state |= {"best_model_path": named, "kth_best_model_path": named, "last_model_path": named}
    callback = BestCheckpoint(dirpath=folder, monitor="val/loss")
    callback.load_state_dict(state | {"best_k_models": {named: torch.tensor(0.25)}})
    kept = {callback.best_model_path, callback.last_model_path, *callback.best_k_models}
    trainer = SimpleNamespace(ckpt_path=None)
    assert kept == {str(victim)}
    assert not callback._should_remove_checkpoint(trainer, kept.pop(), f"{folder}/new.ckpt")
    inside = f"{folder}/best.ckpt"
    assert callback._should_remove_checkpoint(trainer, inside, f"{folder}/new.ckpt")


def test_missing_best_checkpoint_is_a_warning_and_dropped(tmp_path, state):
    after = BestCheckpoint(dirpath=tmp_path, monitor="val/loss")
    with pytest.warns(UserWarning, match=r"best\.ckpt, is gone"):
        after.load_state_dict(state)
    assert after.best_model_score is None
    assert after.best_model_path == ""


class WorseningModel(BoringModel):
    """Its validation loss is the number of steps."""

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", float(self.global_step))


@pytest.mark.parametrize("save_last", [True, None])
def test_every_validation_saves_the_last_state(tmp_path, save_last):
    checkpoint = BestCheckpoint(
        tmp_path, filename="best", monitor="val/loss", save_last=save_last, **ONE_FILE_EACH
    )
    model = WorseningModel()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(max_steps=6, val_check_interval=2, callbacks=checkpoint, **quiet)
    trainer.fit(model)
    saved = {path.stem: torch.load(path, weights_only=True) for path in tmp_path.glob("*.ckpt")}
    steps = {name: state["global_step"] for name, state in saved.items()}
    assert steps == {"best": 2} | ({"last": 6} if save_last else {})
    if save_last:
        assert torch.equal(saved["last"]["state_dict"]["layer.weight"], model.layer.weight)


class ImprovingUntilSecondEpoch(BoringModel):
    """Its validation loss is lowest in the second epoch."""

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", float(abs(self.current_epoch - 1)))


def test_saving_at_the_end_of_epochs_saves_the_best_and_the_last(tmp_path):
    one_file_each = ONE_FILE_EACH | {"save_on_train_epoch_end": True}
    checkpoint = BestCheckpoint(
        tmp_path, filename="best", monitor="val/loss", save_last=True, **one_file_each
    )
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(max_epochs=4, limit_train_batches=3, callbacks=checkpoint, **quiet)
    trainer.fit(ImprovingUntilSecondEpoch())
    saved = {path.stem: torch.load(path, weights_only=True) for path in tmp_path.glob("*.ckpt")}
    assert {name: state["global_step"] for name, state in saved.items()} == {"best": 6, "last": 12}
