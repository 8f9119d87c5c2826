"""Fine-tune a causal language model with an adapter, and score what it generates."""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities import rank_zero_warn
from peft import PeftConfig
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric
from transformers import get_scheduler

from tera_pl.adapters.supported import NeedsWeightsError
from tera_pl.checkpointing.compatibility import change_optimizer, check_checkpoint
from tera_pl.checkpointing.resume_command import resume_command_of
from tera_pl.checkpointing.run_spec import (
    describe_adapter,
    describe_data,
    describe_optimizer,
    describe_tokenizer,
    describe_training,
)
from tera_pl.checkpointing.training_state import check_training_state
from tera_pl.config.construction import is_own, name_error
from tera_pl.distributed.fsdp2 import (
    any_rank,
    average_gradients,
    ignore_frozen_in_ddp,
    shard_model,
)
from tera_pl.errors import RunStoppedError, UserError, is_user_error
from tera_pl.models.backbone import (
    Backbone,
    add_adapter,
    cache_delta_weights,
    clear_cached_delta_weights,
    describe_base,
    load_config,
    load_meta_model,
    load_model,
    load_tokenizer,
    prepare_training,
)
from tera_pl.models.fingerprint import fingerprint_frozen
from tera_pl.models.hub import check_available, find_commit
from tera_pl.models.packed_attention import ATTENTION
from tera_pl.tasks.loss import prepare, supervised_loss
from tera_pl.tasks.optimizer import build_optimizer
from tera_pl.tasks.positions import check_positions

Batch = Mapping[str, Any]
Predictions = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Schedule:
    """Learning rate over the optimizer steps of a run.

    Args:
        name: Name of a schedule of `transformers.get_scheduler` that needs no further argument.
        warmup_steps: Optimizer steps over which the rate rises linearly from zero (paper: 100).
    """

    name: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    warmup_steps: int = 100

    def __post_init__(self) -> None:
        if self.warmup_steps < 0:
            raise UserError(f"warmup_steps is {self.warmup_steps}: expected at least 0")

    def build(self, optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler:
        """Build the scheduler of an optimizer for a number of optimizer steps."""
        return get_scheduler(
            self.name, optimizer, num_warmup_steps=self.warmup_steps, num_training_steps=steps
        )


@dataclass(frozen=True)
class Generation:
    """How answers are generated. Always deterministic: no sampling.

    Args:
        max_new_tokens: Longest answer, in tokens.
        num_beams: Width of the beam search; 1 is greedy.
        length_penalty: Exponent of the length in a beam's score.
        no_repeat_ngram_size: Forbid repeating n-grams of this size, the prompt's included; 0 is
            off.
        stop: Texts that end an answer, which is cut before the first of them.
    """

    max_new_tokens: int = 32
    num_beams: int = 1
    length_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    stop: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, least in (("max_new_tokens", 1), ("num_beams", 1), ("no_repeat_ngram_size", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}: expected at least {least}")
        if not math.isfinite(self.length_penalty):
            raise UserError(f"length_penalty is {self.length_penalty}: expected a finite number")
        if "" in self.stop:
            raise UserError("stop: an empty text would end every answer at once")

    def settings(self) -> dict[str, Any]:
        """Give the arguments of `generate` in transformers."""
        settings = asdict(self)
        del settings["stop"]
        return settings | {"do_sample": False}

    def cut(self, text: str) -> str:
        """Cut an answer before the first text that ends it."""
        return text[: min((text.find(stop) for stop in self.stop if stop in text), default=None)]


class CausalLMTask(LightningModule):
    """Causal language modeling with an adapter on a frozen backbone.

    The loss is in nats per supervised token (label other than -100). Validation and test log the
    loss and, if a metric is given, the metric on generated answers. Weights are loaded in
    `configure_model`, after the data and the whole configuration have been checked. Checkpoints
    hold the trained tensors only.

    Args:
        backbone: The pretrained model.
        adapter: Configuration of a PEFT method, or null to train every weight.
        optimizer: Optimizer of the trained tensors. The default decays nothing: vectors that
            start at one must not be pulled to zero.
        schedule: Learning rate schedule.
        generation: How answers are generated where a metric asks for them.
        metric: Scores generated answers, for example `tera_pl.metrics.ChoiceAccuracy`; null for
            the loss alone.
        generate_in_validation: Whether validation scores generated answers too, or the test alone.
        skip_nonfinite_loss: Pass over a batch whose loss is NaN or infinite instead of stopping.
        allow_changed: Settings in which a checkpoint may differ from this run, by the names that
            the error about them prints, for example `data.encoding.template`.
    """

    # A PeftModel, or a PreTrainedModel without an adapter; made in `configure_model`.
    model: Any
    tokenizer: Any
    metric: Any
    spec: dict[str, Any]

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
        if metric is not None and not (hasattr(metric, "names") and hasattr(metric, "judge")):
            raise UserError(
                f"metric is {type(metric).__name__}: expected one of tera_pl.metrics, or one that "
                "has their methods `names` and `judge`"
            )
        self.backbone = backbone
        self.adapter = adapter
        self.optimizer = optimizer
        self.schedule = schedule
        self.generation = generation
        self.metric = metric
        self.generate_in_validation = generate_in_validation
        self.skip_nonfinite_loss = skip_nonfinite_loss
        self.allow_changed = allow_changed
        # What a loaded checkpoint had otherwise, by name.
        self.changed: list[str] = []
        # The checkpoint holds a part of the state dict; `check_checkpoint` is the strict test.
        self.strict_loading = False

    def logged_names(self) -> set[str]:
        """Name every scalar that validation can log, for whoever wants to monitor one."""
        names = {"val/loss"}
        if self.metric is not None and self.generate_in_validation:
            names |= {f"val/{name}" for name in self.metric.names()}
        return names

    def prepare_data(self) -> None:
        """Look for the backbone before anything is read."""
        check_available(self.backbone.path, self.backbone.revision)

    def setup(self, stage: str) -> None:
        """Check configuration and adapter against the architecture, without any weights."""
        self.tokenizer = load_tokenizer(self.backbone)
        config = load_config(self.backbone)
        vocab_size = config.get_text_config().vocab_size
        if len(self.tokenizer) > vocab_size:
            raise UserError(
                f"model.backbone.path: the tokenizer of {self.backbone.path!r} has "
                f"{len(self.tokenizer)} tokens, the model only {vocab_size}: use its own tokenizer"
            )
        model: Any = load_meta_model(self.backbone)
        if self.adapter is not None:
            model = self._try_adapter(model, self.adapter)
        build_optimizer(self.optimizer, model.parameters())
        if self._trainer is not None:
            check_positions(
                config,
                self.trainer.datamodule,  # type: ignore[attr-defined]
                stage,
                virtual_tokens=getattr(self.adapter, "num_virtual_tokens", None) or 0,
                max_new_tokens=self.generation.max_new_tokens,
                scored=self._scores,
            )

    def _try_adapter(self, model: Any, adapter: PeftConfig) -> Any:
        """Inject the adapter into the meta model, where what it refuses costs nothing."""
        try:
            return add_adapter(model, adapter)
        except NeedsWeightsError:  # found out when the weights are there
            return model
        except Exception as error:
            if is_own(type(adapter)) and not is_user_error(error):
                raise
            key = "model.init_args.adapter"
            name = f"{key} ({type(adapter).__name__})"
            raise name_error(error, name, f"{key}.init_args", vars(adapter)) from error

    def configure_model(self) -> None:
        """Load the backbone and inject the adapter, once."""
        if hasattr(self, "model"):
            return
        model = load_model(self.backbone)
        if self.adapter is not None:
            # What PEFT draws is a function of the run's seed alone: an export draws it again.
            torch.manual_seed(torch.initial_seed())
            base = (self.backbone.path, self.backbone.revision)
            model = add_adapter(model, self.adapter, find_commit(*base) or base[1])
        self.model = prepare_training(model, self.backbone)
        self.spec = {
            "adapter": describe_adapter(model, self.adapter),
            "backbone": describe_base(self.backbone)
            | {"frozen_weights_sha256": fingerprint_frozen(model)},
            "tokenizer": describe_tokenizer(self.tokenizer),
            "optimizer": describe_optimizer(self.optimizer),
            "schedule": asdict(self.schedule),
        }
        if self._trainer is not None:
            self.spec["data"] = describe_data(self._trainer)
            self.spec["training"] = describe_training(self._trainer)
        if self.device_mesh is None:
            ignore_frozen_in_ddp(self)
        else:
            shard_model(model, self.device_mesh["data_parallel"])

    def configure_optimizers(self) -> Any:
        """Optimize the trained tensors only."""
        optimizer = build_optimizer(self.optimizer, self.parameters())
        scheduler = self.schedule.build(optimizer, int(self.trainer.estimated_stepping_batches))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step", "name": "lr"},
        }

    def on_fit_start(self) -> None:
        """Remember the run's seed."""
        self._seed = torch.initial_seed()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Average what a process of FSDP2 has found alone."""
        if self.device_mesh is not None:
            average_gradients(self.parameters(), self.device_mesh["data_parallel"])

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Make what is random in a step, dropout, a function of seed and place in the run.

        A run that goes on then draws what it would have drawn.
        """
        place = f"{self._seed} {self.current_epoch} {batch_idx} {self.global_rank}"
        torch.manual_seed(int.from_bytes(hashlib.sha256(place.encode()).digest()[:7]))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        """Compute the loss of a batch."""
        loss, num_tokens = self.compute_loss(batch)
        # The one wait for the device in a step, so that no weight ever sees a NaN: it delays the
        # backward pass by one launch. Whoever logs or shows the loss then need not wait again.
        value = loss.detach().cpu()
        if not torch.isfinite(value):
            self._report_nonfinite(value, batch)
            return None
        self.log("train/loss", value, prog_bar=True, batch_size=num_tokens)
        return loss * self._share_of_tokens(num_tokens)

    def _share_of_tokens(self, num_tokens: int) -> float | Tensor:
        """Weight that makes the mean over processes a mean over all their tokens."""
        if self.trainer.world_size == 1:
            return 1.0
        number = torch.tensor(float(num_tokens), device=self.device)
        # A copy: what is reduced is changed in place.
        return number / self.trainer.strategy.reduce(number.clone(), reduce_op="mean")

    def validation_step(self, batch: Batch, batch_idx: int) -> Predictions:
        """Log the loss and judge generated answers."""
        counts = "num_sanity_val_batches" if self.trainer.sanity_checking else "num_val_batches"
        with self._in_step(batch_idx, counts, "val"):
            return self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> Predictions:
        """Log the loss and judge generated answers."""
        with self._in_step(batch_idx, "num_test_batches", "test"):
            return self._evaluate(batch, "test")

    def predict_step(self, batch: Batch, batch_idx: int) -> Predictions:
        """Generate answers."""
        with self._in_step(batch_idx, "num_predict_batches", "predict"):
            return self._judge(batch, self.generate(batch))

    def on_validation_epoch_start(self) -> None:
        """Build updates once for all answers."""
        cache_delta_weights(self.model)

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the epoch."""
        clear_cached_delta_weights(self.model)
        self._log_scores("val")

    def on_test_epoch_start(self) -> None:
        """Build updates once for all answers."""
        cache_delta_weights(self.model)

    def on_test_epoch_end(self) -> None:
        """Log the scores of the epoch."""
        clear_cached_delta_weights(self.model)
        self._log_scores("test")

    def on_predict_epoch_start(self) -> None:
        """Build updates once for all answers."""
        cache_delta_weights(self.model)

    def on_predict_epoch_end(self) -> None:
        """Forget them."""
        clear_cached_delta_weights(self.model)

    @torch.no_grad()
    def generate(self, batch: Batch) -> list[str]:
        """Answer the prompts of a batch.

        Args:
            batch: Holds `prompt_input_ids` and `prompt_attention_mask`, left-padded, of shape
                `(batch, length)`.

        Returns:
            One text per prompt: what follows the prompt, up to the end-of-sequence token or the
            first text that ends an answer.
        """
        prompts = batch["prompt_input_ids"]
        eos = self.tokenizer.eos_token_id
        # Texts that end an answer are cut off below. Greedy search can stop there as well; with
        # beams that would change which one is chosen.
        early: dict[str, Any] = {}
        if self.generation.stop and self.generation.num_beams == 1:
            early = {"stop_strings": self.generation.stop, "tokenizer": self.tokenizer}
        outputs = self.model.generate(
            input_ids=prompts,
            attention_mask=batch["prompt_attention_mask"],
            eos_token_id=eos,
            # Fills rows that have ended; those tokens are cut off below.
            pad_token_id=eos,
            # Layers in parts are gathered by all processes together: none may stop before others.
            synced_gpus=self.device_mesh is not None,
            **self.generation.settings(),
            **early,
        )
        answers = outputs[:, prompts.shape[1] :].tolist()
        cut = [ids[: ids.index(eos)] if eos in ids else ids for ids in answers]
        texts = self.tokenizer.batch_decode(cut, skip_special_tokens=True)
        return [self.generation.cut(text) for text in texts]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the trained tensors only, beside what they depend on."""
        trained = {name for name, p in self.named_parameters() if p.requires_grad}
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: state[name] for name in state if name in trained}
        checkpoint["tera_pl"] = self.spec

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint that was not made for this model."""
        resuming = self.trainer.state.fn == "fit"
        trained = {name: p for name, p in self.named_parameters() if p.requires_grad}
        self.changed = check_checkpoint(
            checkpoint, self.spec, trained, resuming=resuming, allow_changed=self.allow_changed
        )
        if self.changed:
            rank_zero_warn(f"other than in the checkpoint, as allowed: {', '.join(self.changed)}")
        if resuming:
            parameters = list(trained.values())
            schedule = partial(self.schedule.build, steps=1)
            check_training_state(checkpoint, parameters, self.optimizer, schedule, self.trainer)
            settings = self.spec["optimizer"].items()
            new = {key: value for key, value in settings if f"optimizer.{key}" in self.changed}
            change_optimizer(checkpoint, new)

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> dict[str, Any]:
        """Move what the model takes; what only the host looks at stays there."""
        moved = {key: batch[key] for key in batch if key.startswith("prompt_")}
        moved["loss"] = self._prepare_loss(batch)
        return {**batch, **super().transfer_batch_to_device(moved, device, dataloader_idx)}

    def compute_loss(self, batch: Batch) -> tuple[Tensor, int]:
        """Mean cross-entropy in nats over the supervised tokens, and how many there are."""
        prepared = batch["loss"] if "loss" in batch else self._prepare_loss(batch)
        return supervised_loss(self.model, prepared)

    def _prepare_loss(self, batch: Batch) -> dict[str, Any]:
        attention = self.model.config.get_text_config()._attn_implementation
        # Prompt methods put their own tokens before each row.
        prompts = self.adapter is not None and self.adapter.is_prompt_learning
        return prepare(batch, packed=attention == ATTENTION and not prompts)

    def _report_nonfinite(self, loss: Tensor, batch: Batch) -> None:
        """Stop at a loss that is NaN or infinite, or tell that its batch is skipped."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        ids = ", ".join(data.ids_of(batch)) if hasattr(data, "ids_of") else "an unnamed batch"
        told = f"the loss is {loss.item()} at step {self.global_step} on {ids}"
        if not self.skip_nonfinite_loss:
            raise RunStoppedError(f"{told}; {resume_command_of(self.trainer)}")
        rank_zero_warn(f"{told}: batch skipped")

    @contextmanager
    def _in_step(self, batch_idx: int, counts: str, stage: str) -> Iterator[None]:
        """Keep in step with processes that may have a batch more.

        Layers in parts are gathered by all processes together. Before each batch a process tells
        that it has one; after its last it runs along, on nothing, while others have one. That must
        be over when the step is: Lightning then joins what was logged.
        """
        if self.device_mesh is None:
            yield
            return
        any_rank(True, self.device)
        yield
        if batch_idx + 1 < getattr(self.trainer, counts)[0]:
            return
        while any_rank(False, self.device):
            ids = torch.full((1, 2), self.tokenizer.eos_token_id, device=self.device)
            mask = torch.ones_like(ids)
            if stage != "predict":
                self.model(input_ids=ids, attention_mask=mask)
            if stage == "predict" or self._scores(stage):
                self.generate({"prompt_input_ids": ids, "prompt_attention_mask": mask})

    def _evaluate(self, batch: Batch, stage: str) -> Predictions:
        loss, num_tokens = self.compute_loss(batch)
        self.log(f"{stage}/loss", loss, prog_bar=True, batch_size=num_tokens, sync_dist=True)
        if not self._scores(stage):
            return {"predictions": []}
        outputs = self.generate(batch)
        self.metric.update(outputs, batch["records"])
        return self._judge(batch, outputs)

    def _judge(self, batch: Batch, outputs: Sequence[str]) -> Predictions:
        predictions = []
        for record, output in zip(batch["records"], outputs, strict=True):
            prediction = {key: record[key] for key in ("id", "task", "prompt")}
            prediction |= {"output": output, "reference": record["reference"]}
            if self.metric is not None:
                prediction |= self.metric.judge(output, record)
            predictions.append(prediction)
        return {"predictions": predictions}

    def _scores(self, stage: str) -> bool:
        """Whether a stage scores generated answers."""
        return self.metric is not None and (stage == "test" or self.generate_in_validation)

    def _log_scores(self, stage: str) -> None:
        if not self._scores(stage):
            return
        for name, value in self.metric.compute().items():
            # The metric is one over all processes already; this spares Lightning's warning.
            self.log(f"{stage}/{name}", value, prog_bar=name == "accuracy", sync_dist=True)
        self.metric.reset()
