"""Validation, test and predict of a causal language model: its loss and its answers."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from tera_pl.adapters.caching import cache_delta_weights, clear_cached_delta_weights
from tera_pl.contracts import (
    EvalBatch,
    LikelihoodMetric,
    Metric,
    PromptBatch,
    ScoredCandidate,
    complete,
)
from tera_pl.metrics.record_loss import RecordLoss, gather_records, loss_scores
from tera_pl.private_api.lightning import attached_trainer
from tera_pl.tasks.candidates import score_candidates
from tera_pl.tasks.generation import Generation, generate_answers
from tera_pl.tasks.lockstep import lockstep
from tera_pl.tasks.predictions import Predictions, judge


class EvaluationModule(LightningModule):
    """Logs loss and perplexity of validation and test, and scores generated answers.

    A subclass sets the attributes and defines `compute_row_losses`.
    """

    # A PeftModel, or a PreTrainedModel without an adapter.
    model: Any
    tokenizer: Any
    generation: Generation
    metric: Metric | LikelihoodMetric | None
    generate_in_validation: bool
    # Of the current or last evaluation; at its end those of all processes.
    record_losses: list[RecordLoss]
    # Step at which a loaded checkpoint was saved.
    checkpoint_step = 0
    # Whether layers are compiled, for training only: each length of a generated answer, with its
    # cache, would be compiled anew.
    compiled = False

    def compute_row_losses(self, batch: Mapping[str, Any]) -> list[Tensor]:
        """Compute per row of a batch the losses of its supervised tokens, on the CPU."""
        raise NotImplementedError

    def metric_of(self, stage: str) -> Metric | LikelihoodMetric | None:
        """Give the metric of answers in `val` or `test`, if the stage scores any."""
        return self.metric if stage == "test" or self.generate_in_validation else None

    def answers_batches(self) -> bool:
        """Whether the current stage of the trainer generates answers or scores candidates."""
        if self.trainer.training:
            return False
        stage = "test" if self.trainer.testing else "val"
        return self.trainer.predicting or self.metric_of(stage) is not None

    def validation_step(self, batch: EvalBatch, batch_idx: int) -> Predictions:
        """Log the loss and judge generated answers."""
        checking = self.trainer.sanity_checking
        counts = self.trainer.num_sanity_val_batches if checking else self.trainer.num_val_batches
        with self._lockstep(batch_idx, counts, "val"), self._uncompiled():
            return self._evaluate(batch, batch_idx, "val")

    def test_step(self, batch: EvalBatch, batch_idx: int) -> Predictions:
        """Log the loss and judge generated answers."""
        counts = self.trainer.num_test_batches
        with self._lockstep(batch_idx, counts, "test"), self._uncompiled():
            return self._evaluate(batch, batch_idx, "test")

    def predict_step(self, batch: EvalBatch, batch_idx: int) -> Predictions:
        """Generate answers, or choose among candidates."""
        counts = self.trainer.num_predict_batches
        with self._lockstep(batch_idx, counts, "predict"), self._uncompiled():
            return judge(batch["records"], self._answer(batch), self.metric)

    def on_validation_epoch_start(self) -> None:
        """Cache delta weights for all answers of the epoch."""
        self.record_losses = []
        cache_delta_weights(self.model)

    on_test_epoch_start = on_predict_epoch_start = on_validation_epoch_start

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the epoch."""
        self._end_epoch("val")

    def on_test_epoch_end(self) -> None:
        """Log the scores of the epoch."""
        self._end_epoch("test")

    def on_predict_epoch_end(self) -> None:
        """Clear the cached delta weights."""
        clear_cached_delta_weights(self.model)

    def generate(self, batch: PromptBatch) -> list[str]:
        """Answer the prompts of a batch, as `generate_answers` does."""
        sharded = self.device_mesh is not None
        data = complete(getattr(attached_trainer(self), "datamodule", None))
        return generate_answers(
            self.model,
            self.tokenizer,
            batch,
            self.generation,
            synced=sharded,
            stop_token_ids=data.stop_token_ids,
        )

    def score(self, batch: Mapping[str, Any]) -> list[list[ScoredCandidate]]:
        """Score the candidates of a batch, as `score_candidates` does."""
        labels, prepared = batch["candidates"]["labels"], batch["prepared_candidates"]
        return score_candidates(self.model, prepared, labels, batch["records"])

    def _answer(self, batch: EvalBatch) -> list[Any]:
        return self.score(batch) if self.scores_candidates() else self.generate(batch)

    def scores_candidates(self) -> bool:
        """Whether answers are candidates with likelihoods instead of generated texts."""
        return isinstance(self.metric, LikelihoodMetric)

    def _uncompiled(self) -> AbstractContextManager[None]:
        return torch.compiler.set_stance("force_eager") if self.compiled else nullcontext()

    def _lockstep(
        self, batch_idx: int, counts: Sequence[int | float], stage: str
    ) -> AbstractContextManager[None]:
        """Run a batch together with all processes, where layers are sharded."""
        if self.device_mesh is None:
            return nullcontext()

        def idle() -> None:
            ids = torch.full((1, 2), self.tokenizer.eos_token_id, device=self.device)
            mask = torch.ones_like(ids)
            if stage != "predict":
                self.model(input_ids=ids, attention_mask=mask)
            if stage != "predict" and self.metric_of(stage) is None:
                return
            if self.scores_candidates():
                self.model(input_ids=ids, attention_mask=mask)
            else:
                self.generate({"prompt_input_ids": ids, "prompt_attention_mask": mask})

        return lockstep(batch_idx + 1 >= counts[0], self.device, idle)

    def _evaluate(self, batch: EvalBatch, batch_idx: int, stage: str) -> Predictions:
        rows = self.compute_row_losses(batch)
        ids = [record.get("id") for record in batch.get("records", ())]
        # Batches of other datamodules may have no records where none are scored.
        place = f"process {self.global_rank}, batch {batch_idx}"
        for row, losses in enumerate(rows):
            name = (ids[row] if ids else None) or f"{place}, row {row}"
            nll = float(losses.sum(dtype=torch.float64))
            self.record_losses.append(RecordLoss(name, nll, len(losses)))
        metric = self.metric_of(stage)
        if metric is None:
            return {"predictions": []}
        outputs = self._answer(batch)
        metric.update(outputs, batch["records"])
        return judge(batch["records"], outputs, metric)

    def _end_epoch(self, stage: str) -> None:
        clear_cached_delta_weights(self.model)
        self.record_losses = gather_records(self.record_losses)
        for name, score in loss_scores(self.record_losses).items():
            self.log(f"{stage}/{name}", score, prog_bar=name == "loss", sync_dist=True)
        metric = self.metric_of(stage)
        if self.trainer.state.fn != "fit":
            # Loggers get this as the step of the scores; Lightning's own counter is that of `fit`.
            self.log("step", float(self.checkpoint_step), sync_dist=True)
        if metric is None:
            return
        for name, value in metric.compute().items():
            # The metric is already reduced over processes; `sync_dist` avoids Lightning's warning.
            self.log(f"{stage}/{name}", value, prog_bar=name == "accuracy", sync_dist=True)
        metric.reset()
