"""Save the best weights in the format of PEFT or transformers."""

from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from tera_pl.callbacks.task import Task
from tera_pl.checkpointing.adapter_card import write_adapter_card
from tera_pl.checkpointing.atomic_writes import atomic_folder, check_target
from tera_pl.checkpointing.run_directory import run_directory
from tera_pl.distributed.fsdp2 import gather, load_trained

KIND = "trained model"


class BestAdapter(Callback):
    """Write the best checkpoint's adapter to `adapter/` at the end of training.

    The folder is in PEFT's format and loads with `PeftModel.from_pretrained`. A run without an
    adapter (`model.init_args.adapter: null`) writes the full model to `model/`, in the format of
    transformers. The best weights stay in the model for the callbacks that run after this one.

    A resumed run replaces the folder. If files were added to it, training does not start.
    """

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Check before training that the folder may be written."""
        folder = run_directory(trainer)
        if stage == "fit" and trainer.is_global_zero:
            check_target(folder / _name(pl_module), KIND, replace=True)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Load the best weights and save them."""
        pl_module.checkpoint_step = trainer.global_step
        checkpoint = trainer.checkpoint_callback
        if isinstance(checkpoint, ModelCheckpoint) and checkpoint.best_model_path:
            path = checkpoint.best_model_path
            best = trainer.strategy.checkpoint_io.load_checkpoint(path, weights_only=True)
            load_trained(pl_module, best["state_dict"])
            pl_module.checkpoint_step = best["global_step"]
        folder = run_directory(trainer) / _name(pl_module)
        # Every process has the full adapter; a sharded model must be gathered.
        weights = {} if pl_module.adapter else {"state_dict": gather(pl_module.model)}
        if trainer.is_global_zero:
            with atomic_folder(folder, KIND, replace=True) as part:
                pl_module.model.save_pretrained(part, **weights)
                pl_module.tokenizer.save_pretrained(part)
                if pl_module.adapter:
                    backbone = pl_module.backbone
                    write_adapter_card(
                        part, pl_module.adapter, backbone.path, backbone.quantization
                    )


def _name(task: Task) -> str:
    return "adapter" if task.adapter else "model"
