"""What the callbacks use of the task that they watch."""

from typing import Any, Protocol

from lightning.pytorch import Trainer
from peft import PeftConfig

from tera_pl.checkpointing.run_spec import RunSpec
from tera_pl.contracts import LikelihoodMetric, Metric
from tera_pl.metrics import RecordLoss
from tera_pl.models.backbone import Backbone


class Task(Protocol):
    """A LightningModule with an adapter: `tera_pl.tasks.CausalLMTask`, or one with its attributes.

    The hooks of Lightning declare a LightningModule and pass it on as this.
    """

    # A PeftModel, or a PreTrainedModel without an adapter.
    model: Any
    tokenizer: Any
    metric: Metric | LikelihoodMetric | None
    spec: RunSpec
    backbone: Backbone
    adapter: PeftConfig | None
    # Dataclasses.
    schedule: Any
    generation: Any
    # Of the last validation or test, over all processes.
    record_losses: list[RecordLoss]
    # Names of the settings in which a loaded checkpoint differs.
    changed: list[str]
    # Step at which the loaded checkpoint was saved; `BestAdapter` loads one at the end of `fit`.
    checkpoint_step: int


def step_of(trainer: Trainer, task: Task) -> int:
    """Give the step of training that the weights have: in a test that of the checkpoint."""
    return trainer.global_step if trainer.state.fn == "fit" else task.checkpoint_step
