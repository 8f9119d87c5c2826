"""Save the best checkpoint in a format that other programs read."""

from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info

from tera_pl.checkpointing.atomic_writes import atomic_folder, check_target
from tera_pl.checkpointing.run_directory import run_directory
from tera_pl.distributed.fsdp2 import gather, load_trained

KIND = "trained model"


class BestAdapter(Callback):
    """Write the best checkpoint's adapter to `adapter/` at the end of training.

    The folder is in PEFT's format and loads with `PeftModel.from_pretrained`. A run without an
    adapter (`model.adapter: null`) writes the whole model to `model/`, in the format of
    transformers. Put this callback before those that describe the trained adapter: they then see
    the best weights, which stay in the model.

    The folder of an earlier part of the same run is replaced, unless somebody added files to it:
    then training does not start.
    """

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Check the place before training."""
        folder = run_directory(trainer)
        if stage == "fit" and trainer.is_global_zero:
            check_target(folder / _name(pl_module), KIND, replace=True)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Load the best weights and save them."""
        checkpoint = trainer.checkpoint_callback
        if isinstance(checkpoint, ModelCheckpoint) and checkpoint.best_model_path:
            path = checkpoint.best_model_path
            best = trainer.strategy.checkpoint_io.load_checkpoint(path, weights_only=True)
            load_trained(pl_module, best["state_dict"])
            rank_zero_info(f"best checkpoint: {path} ({checkpoint.monitor} = {_score(checkpoint)})")
        folder = run_directory(trainer) / _name(pl_module)
        # An adapter is whole in every process; a model that is trained in parts must be gathered.
        weights = {} if pl_module.adapter else {"state_dict": gather(pl_module.model)}
        if trainer.is_global_zero:
            with atomic_folder(folder, KIND, replace=True) as part:
                pl_module.model.save_pretrained(part, **weights)
                pl_module.tokenizer.save_pretrained(part)


def _name(pl_module: Any) -> str:
    return "adapter" if pl_module.adapter else "model"


def _score(checkpoint: ModelCheckpoint) -> float | None:
    score = checkpoint.best_model_score
    return None if score is None else round(float(score), 4)
