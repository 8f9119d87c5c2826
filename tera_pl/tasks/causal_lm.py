"""Fine-tune a causal language model with an adapter, and score its generated answers."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_warn
from peft import PeftConfig
from torch import Tensor
from torchmetrics import Metric

from tera_pl import contracts
from tera_pl.checkpointing.compatibility import (
    change_optimizer,
    check_checkpoint,
    trained_steps,
)
from tera_pl.checkpointing.resume_command import resume_command_of
from tera_pl.checkpointing.run_spec import RunSpec, describe_model, describe_run
from tera_pl.checkpointing.training_state import check_training_state
from tera_pl.contracts import TrainBatch
from tera_pl.distributed.fsdp2 import average_gradients, ignore_frozen_in_ddp, shard_model
from tera_pl.errors import RunStoppedError, UserError
from tera_pl.models.backbone import (
    Backbone,
    add_adapter,
    load_config,
    load_meta_model,
    load_model,
    load_tokenizer,
    prepare_training,
)
from tera_pl.models.compilation import KEY as COMPILE
from tera_pl.models.compilation import compile_layers
from tera_pl.models.hub import check_available, find_commit
from tera_pl.models.packed_attention import ATTENTION
from tera_pl.private_api.lightning import attached_trainer
from tera_pl.private_api.transformers import attention_implementation
from tera_pl.tasks.candidates import prepare_candidates
from tera_pl.tasks.checks import (
    check_metric,
    check_quantized,
    check_tokenizer,
    check_vocabulary,
    try_adapter,
)
from tera_pl.tasks.evaluation import EvaluationModule
from tera_pl.tasks.generation import Generation
from tera_pl.tasks.loss import prepare, row_losses, supervised_loss
from tera_pl.tasks.optimizer import build_optimizer
from tera_pl.tasks.positions import check_positions
from tera_pl.tasks.schedule import Schedule


class CausalLMTask(EvaluationModule):
    """Causal language modeling with an adapter on a frozen backbone.

    The loss is in nats per supervised token (label other than -100). Validation and test log loss
    and perplexity, with standard errors over records, and the scores of generated answers if a
    metric is given. Weights are loaded in
    `configure_model`, after the data and the configuration have been checked. Checkpoints hold the
    trainable tensors only.

    Args:
        backbone: The pretrained model.
        adapter: Configuration of a PEFT method, or null to train every weight.
        optimizer: Optimizer of the trainable tensors. The default has no weight decay: vectors
            that start at one must not be pulled to zero. On the command line a configuration
            without a rate takes that of its method, `tera_pl.tasks.optimizer.RATES`.
        schedule: Learning rate schedule.
        generation: Settings of generated answers.
        metric: Scores generated answers, for example `tera_pl.metrics.ChoiceAccuracy`, or the
            likelihoods of candidates (`ChoiceLikelihood`); null for the loss alone.
        generate_in_validation: Whether validation scores answers or candidates too, or the test
            alone.
        skip_nonfinite_loss: Skip a batch whose loss is NaN or infinite instead of stopping.
        allow_changed: Settings in which a checkpoint may differ from this run, by the names in the
            error message, for example `data.encoding.template`.
    """

    spec: RunSpec

    def __init__(  # noqa: PLR0913 - each is a key of the YAML
        self,
        backbone: Backbone,
        adapter: PeftConfig | None,
        optimizer: OptimizerCallable = lambda params: torch.optim.AdamW(
            params, lr=1e-3, weight_decay=0.0
        ),
        schedule: Schedule = Schedule(),
        generation: Generation = Generation(),
        metric: Metric | None = None,
        generate_in_validation: bool = True,
        skip_nonfinite_loss: bool = False,
        allow_changed: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.adapter = adapter
        self.optimizer = optimizer
        self.schedule = schedule
        self.generation = generation
        self.metric = check_metric(metric)
        self.generate_in_validation = generate_in_validation
        self.skip_nonfinite_loss = skip_nonfinite_loss
        self.allow_changed = allow_changed
        # Names of the settings in which a loaded checkpoint differs.
        self.changed: list[str] = []
        # A checkpoint holds a part of the state dict; `check_checkpoint` compares it strictly.
        self.strict_loading = False

    def logged_names(self) -> set[str]:
        """List every scalar that validation can log and a callback can monitor."""
        metric = self.metric_of("val")
        names = [] if metric is None else metric.names()
        return {"val/loss", "val/perplexity", *(f"val/{name}" for name in names)}

    def prepare_data(self) -> None:
        """Look for the backbone before any data is read."""
        check_available(self.backbone.path, self.backbone.revision, self.backbone.described_by)

    def setup(self, stage: str) -> None:
        """Check configuration and adapter against the architecture, without any weights."""
        self.tokenizer = load_tokenizer(self.backbone)
        config = load_config(self.backbone)
        check_vocabulary(self.tokenizer, config, self.backbone)
        base = load_meta_model(self.backbone)
        strategy = getattr(attached_trainer(self), "strategy", None)
        sharded = isinstance(strategy, ModelParallelStrategy)
        check_quantized(base, self.adapter, sharded=sharded)
        model = try_adapter(base, self.adapter)
        build_optimizer(self.optimizer, model.parameters())
        check_tokenizer(self.tokenizer, self._datamodule)
        check_positions(
            config,
            self._datamodule,
            stage,
            virtual_tokens=getattr(self.adapter, "num_virtual_tokens", None) or 0,
            max_new_tokens=self.generation.max_new_tokens,
            scored=lambda split: self.metric_of(split) is not None,
            by_likelihood=self.scores_candidates(),
        )

    def configure_model(self) -> None:
        """Load the backbone and inject the adapter, once."""
        if hasattr(self, "model"):
            return
        if self.backbone.compile and self.device_mesh is not None:
            raise UserError(f"{COMPILE}: layers sharded by FSDP2 are not compiled: expected false")
        model = load_model(self.backbone)
        if self.adapter is not None:
            # PEFT's random tensors depend on the run's seed alone, so that an export can draw them.
            torch.manual_seed(torch.initial_seed())
            base = (self.backbone.path, self.backbone.revision)
            commit = find_commit(*base, self.backbone.described_by)
            model = add_adapter(model, self.adapter, commit or base[1])
        self.model = prepare_training(model, self.backbone)
        described = describe_model(model, self.adapter, self.backbone, self.tokenizer)
        schedule = asdict(self.schedule)
        self.spec = describe_run(described, self.optimizer, schedule, attached_trainer(self))
        if self.backbone.compile:
            compile_layers(self.model)
            self.compiled = True
        if self.device_mesh is None:
            ignore_frozen_in_ddp(self)
        else:
            shard_model(model, self.device_mesh["data_parallel"])

    def configure_optimizers(self) -> Any:
        """Optimize the trainable tensors only."""
        optimizer = build_optimizer(self.optimizer, self.parameters())
        scheduler = self.schedule.build(optimizer, self.trainer.estimated_stepping_batches)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step", "name": "lr"},
        }

    def on_fit_start(self) -> None:
        """Remember the run's seed."""
        self._seed = torch.initial_seed()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Average the gradients that FSDP2 leaves to each process."""
        if self.device_mesh is not None:
            average_gradients(self.parameters(), self.device_mesh["data_parallel"])

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed dropout by the run's seed and the step, so that a resumed run draws the same."""
        place = f"{self._seed} {self.current_epoch} {batch_idx} {self.global_rank}"
        torch.manual_seed(int.from_bytes(hashlib.sha256(place.encode()).digest()[:7]))

    def training_step(self, batch: TrainBatch, batch_idx: int) -> Tensor | None:
        """Compute the loss of a batch."""
        loss, num_tokens = self.compute_loss(batch)
        # The only synchronization with the device in a step, so that no NaN reaches a weight: it
        # delays the backward pass by one launch. Loggers then need no further synchronization.
        value = loss.detach().cpu()
        if not torch.isfinite(value):
            self._report_nonfinite(value, batch)
            return None
        self.log("train/loss", value, prog_bar=True, batch_size=num_tokens)
        if self.trainer.world_size == 1:
            return loss
        # The mean over processes becomes the mean over all their tokens.
        number = torch.tensor(float(num_tokens), device=self.device)
        # A copy: the reduction is in place.
        return loss * (number / self.trainer.strategy.reduce(number.clone(), reduce_op="mean"))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the trainable tensors only, and add the run's spec."""
        state = checkpoint["state_dict"]
        trainable = self._trainable()
        checkpoint["state_dict"] = {name: state[name] for name in state if name in trainable}
        checkpoint["tera_pl"] = self.spec.as_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint that does not fit this run, and remember its step."""
        resuming = self.trainer.state.fn == "fit"
        trainable = self._trainable()
        self.changed = check_checkpoint(
            checkpoint,
            self.spec.as_dict(),
            trainable,
            resuming=resuming,
            allow_changed=self.allow_changed,
        )
        if self.changed:
            rank_zero_warn(f"other than in the checkpoint, as allowed: {', '.join(self.changed)}")
        if resuming:
            parameters = list(trainable.values())
            schedule = partial(self.schedule.build, steps=1)
            check_training_state(checkpoint, parameters, self.optimizer, schedule, self.trainer)
            settings = self.spec.optimizer.items()
            new = {key: value for key, value in settings if f"optimizer.{key}" in self.changed}
            change_optimizer(checkpoint, new)
        self.checkpoint_step = trained_steps(checkpoint)

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> dict[str, Any]:
        """Move the inputs of the model; `records` and the batch's own tensors stay on the host."""
        answered, by_likelihood = self.answers_batches(), self.scores_candidates()
        contracts.check_batch(
            batch, self._datamodule, answered=answered, by_likelihood=by_likelihood
        )
        moved: dict[str, Any] = {"loss": self._prepare_loss(batch)}
        if answered and by_likelihood:
            moved["prepared_candidates"] = prepare_candidates(
                batch["candidates"], batch["records"], packed=self._packs()
            )
        elif answered:
            moved |= {key: batch[key] for key in batch if key.startswith("prompt_")}
        return {**batch, **super().transfer_batch_to_device(moved, device, dataloader_idx)}

    def compute_loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, int]:
        """Mean cross-entropy in nats over the supervised tokens, and the number of these tokens."""
        prepared = batch["loss"] if "loss" in batch else self._prepare_loss(batch)
        return supervised_loss(self.model, prepared)

    def compute_row_losses(self, batch: Mapping[str, Any]) -> list[Tensor]:
        """Compute per row of a batch the losses of its supervised tokens, on the CPU."""
        prepared = batch["loss"] if "loss" in batch else self._prepare_loss(batch)
        return row_losses(self.model, prepared, batch["labels"])

    def _prepare_loss(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        return prepare(batch, packed=self._packs())

    def _packs(self) -> bool:
        """Whether sequences are concatenated instead of padded."""
        # Prompt methods put their virtual tokens before each row.
        prompts = self.adapter is not None and self.adapter.is_prompt_learning
        return attention_implementation(self.model.config) == ATTENTION and not prompts

    def _report_nonfinite(self, loss: Tensor, batch: TrainBatch) -> None:
        """Stop at a loss that is NaN or infinite, or warn that its batch is skipped."""
        ids = ", ".join(contracts.complete(self._datamodule).ids_of(batch))
        message = f"the loss is {loss.item()} at step {self.global_step} on {ids}"
        if not self.skip_nonfinite_loss:
            raise RunStoppedError(f"{message}; {resume_command_of(self.trainer)}")
        rank_zero_warn(f"{message}: batch skipped")

    def _trainable(self) -> dict[str, Tensor]:
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    @property
    def _datamodule(self) -> object:
        return getattr(attached_trainer(self), "datamodule", None)
