"""Keep the best checkpoint of a run whose folder has moved."""

import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from tera_pl.checkpointing.markers import claim_folder
from tera_pl.checkpointing.run_directory import run_directory
from tera_pl.errors import UserError
from tera_pl.private_api.lightning import save_last_checkpoint

_PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")


class BestCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint that keeps the best score and the last state when a run resumes.

    Lightning saves `last.ckpt` only where a better checkpoint is saved: a run that is killed long
    after its best validation would repeat everything since. Here every validation saves it.

    Lightning drops the score if the path of the folder differs from the one at the start of the
    run (relative or absolute, or moved). A worse checkpoint would then replace the best.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a folder that this program did not write, because files would be replaced."""
        if self.filename is not None and {"/", ".."} & set(Path(self.filename).parts[:-1]):
            raise UserError(f"checkpoint.filename is {self.filename!r}: expected a name, no path")
        given = self.dirpath
        super().setup(trainer, pl_module, stage)
        run = run_directory(trainer).resolve()
        if stage != "fit" or given is None or not trainer.is_global_zero:
            return
        if Path(given).resolve().parent != run:
            claim_folder(Path(given), "folder of checkpoints")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last state after a validation that is not the best, too."""
        super().on_validation_end(trainer, pl_module)
        save_last_checkpoint(self, trainer, epoch_end=False)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last state here instead, if `save_on_train_epoch_end` is true."""
        super().on_train_epoch_end(trainer, pl_module)
        save_last_checkpoint(self, trainer, epoch_end=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last state only if no validation has saved it.

        Lightning also saves it when this process has not saved any. A run resumed from its last
        validation would then write another `last.ckpt` than an uninterrupted run.
        """
        if not self.last_model_path:
            super().on_train_end(trainer, pl_module)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best score and paths, with the current folder."""
        assert self.dirpath is not None
        best = state_dict.get("best_model_path")
        if best and not Path(self._locate(best)).exists():
            warnings.warn(
                f"the best checkpoint so far, {best}, is gone: the best one from now on is kept",
                stacklevel=2,
            )
            self.best_model_path = ""
            return
        state = dict(state_dict, dirpath=self.dirpath)
        for name in _PATHS:
            if state.get(name):
                state[name] = self._locate(state[name])
        state["best_k_models"] = {
            self._locate(path): score for path, score in state.get("best_k_models", {}).items()
        }
        super().load_state_dict(state)

    def _locate(self, path: str) -> str:
        """Find a file in this folder, or else at its old path.

        The old path is resolved: files in this folder may be removed when a better one is saved,
        and the path in an untrusted checkpoint could name another file as one in here.
        """
        here = Path(str(self.dirpath)) / Path(path).name
        return str(here) if here.exists() else str(Path(path).resolve())
