"""What the callbacks use of the task that they watch."""

from typing import Any, Protocol

from peft import PeftConfig

from tera_pl.checkpointing.run_spec import RunSpec
from tera_pl.contracts import Metric
from tera_pl.metrics import RecordLoss
from tera_pl.models.backbone import Backbone


class Task(Protocol):
    """A LightningModule with an adapter: `tera_pl.tasks.CausalLMTask`, or one with its attributes.

    The hooks of Lightning declare a LightningModule and pass it on as this.
    """

    # A PeftModel, or a PreTrainedModel without an adapter.
    model: Any
    tokenizer: Any
    metric: Metric | None
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
