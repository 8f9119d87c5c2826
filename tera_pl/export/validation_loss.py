"""The loss of an exported model on the validation split of a configuration."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from tera_pl.checkpointing.run_spec import describe_tokenizer
from tera_pl.checkpointing.trained_model import TrainedModel
from tera_pl.cli import ConfigurationCLI, build
from tera_pl.errors import UserError
from tera_pl.tasks import CausalLMTask

# What the loss of a batch depends on; the rest is for training, or for several devices.
SETTINGS = ("accelerator", "precision", "limit_val_batches")


class ValidationLoss:
    """Computes `val/loss` as `validate` does, on one device.

    Args:
        config: A configuration. Its task and its datamodule are built, so it must be trusted.
        backbone: Path of the base model, if it has moved since.

    Raises:
        UserError: If the configuration is invalid, or not one of `CausalLMTask`.
    """

    def __init__(self, config: Path, backbone: str | None = None) -> None:
        moved = [] if backbone is None else [f"--model.init_args.backbone.path={backbone}"]
        cli = build(ConfigurationCLI, ["fit", "--config", str(config), *moved])
        if not isinstance(cli.model, CausalLMTask):
            raise UserError(f"{config}: expected a configuration of tera_pl.tasks.CausalLMTask")
        self._config = config
        self._task, self._data = cli.model, cli.datamodule
        # The loss alone.
        self._task.generate_in_validation = False
        self._settings = {key: cli.trainer_settings[key] for key in SETTINGS}

    def of(self, trained: TrainedModel) -> float:
        """Compute the loss of a model.

        Args:
            trained: The model.

        Returns:
            Nats per supervised token of the validation split.

        Raises:
            UserError: If the configuration has another tokenizer than the model.
        """
        self._task.model = trained.model
        trainer = Trainer(
            **self._settings,
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        (scores,) = trainer.validate(self._task, self._data, verbose=False)
        found = describe_tokenizer(self._task.tokenizer)["sha256"]
        if found != trained.spec.tokenizer["sha256"]:
            raise UserError(f"--config: {self._config} has another tokenizer than the checkpoint")
        # The model is released where its owner releases it.
        del self._task.model
        loss: Any = scores["val/loss"]
        return float(loss)
