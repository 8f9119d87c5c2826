"""Keep the best checkpoint, wherever its folder has moved."""

import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from tera_pl.checkpointing.markers import claim_folder
from tera_pl.checkpointing.run_directory import run_directory
from tera_pl.errors import UserError

_PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")


class BestCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint, which remembers the best score when a run goes on.

    Lightning forgets it if the folder is written another way than when the run started: relative
    or absolute, or moved. A worse checkpoint would then replace the best.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a folder that this program did not write: files in it would be replaced."""
        if self.filename is not None and {"/", ".."} & set(Path(self.filename).parts[:-1]):
            raise UserError(f"checkpoint.filename is {self.filename!r}: expected a name, no path")
        given = self.dirpath
        super().setup(trainer, pl_module, stage)
        run = run_directory(trainer).resolve()
        if stage != "fit" or given is None or not trainer.is_global_zero:
            return
        if Path(given).resolve().parent != run:
            claim_folder(Path(given), "folder of checkpoints")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last state if there was no validation to save it at.

        Lightning also saves it if this process has not, which is so when a run goes on from its
        last validation: `last.ckpt` would then be another than that of a run in one go.
        """
        if not self.last_model_path:
            super().on_train_end(trainer, pl_module)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what was best, in the folder where it now lies."""
        assert self.dirpath is not None
        best = state_dict.get("best_model_path")
        if best and not Path(self._locate(best)).exists():
            warnings.warn(
                f"the best checkpoint so far, {best}, is gone: what is best from here on is kept",
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
        """Find a file in this folder, or else where it was.

        Resolved: a checkpoint that somebody else made could name a file outside as if it were in
        here, and what is in here may be removed when a better one is saved.
        """
        here = Path(str(self.dirpath)) / Path(path).name
        return str(here) if here.exists() else str(Path(path).resolve())
