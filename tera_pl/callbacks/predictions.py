"""Write generated answers."""

import json
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer

from tera_pl.callbacks.logger_content import log_table
from tera_pl.callbacks.task import step_of
from tera_pl.checkpointing.run_directory import keep_older, run_directory
from tera_pl.reporting.markup import code, code_block, markdown

Prediction = dict[str, Any]
# Of the sample that loggers get.
COLUMNS = ("id", "task", "prompt", "output", "reference", "correct")


class PredictionWriter(Callback):
    """Write predictions as JSON lines, and a sample of them to the loggers.

    Test and predict write every prediction to `predictions.jsonl`, with the step of the checkpoint;
    an older file gets a numbered name. With several processes each writes its own file,
    `predictions.<rank>.jsonl`.

    Args:
        num_samples: Number of predictions that each validation and test writes to the loggers.
    """

    def __init__(self, num_samples: int = 8) -> None:
        self.num_samples = num_samples
        self._sample: list[Prediction] = []
        self._path: Path | None = None

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect the first predictions."""
        self._collect(outputs)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect the first predictions and write all."""
        self._collect(outputs)
        self._write(outputs, step_of(trainer, pl_module))

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write all predictions."""
        self._write(outputs, step_of(trainer, pl_module))

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Show the sample."""
        if not trainer.sanity_checking:
            self._show(trainer, "val/predictions", step_of(trainer, pl_module))
        self._sample = []

    def on_test_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Start a new file."""
        self._start(trainer)

    def on_predict_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Start a new file."""
        self._start(trainer)

    def on_test_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Show the sample."""
        self._show(trainer, "test/predictions", step_of(trainer, pl_module))
        self._sample = []

    def _collect(self, outputs: dict[str, list[Prediction]]) -> None:
        missing = self.num_samples - len(self._sample)
        self._sample.extend(outputs["predictions"][: max(0, missing)])

    def _start(self, trainer: Trainer) -> None:
        rank = f".{trainer.global_rank}" if trainer.world_size > 1 else ""
        self._path = run_directory(trainer) / f"predictions{rank}.jsonl"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        keep_older(self._path)

    def _write(self, outputs: dict[str, list[Prediction]], step: int) -> None:
        assert self._path is not None
        with self._path.open("a", encoding="utf-8") as file:
            for prediction in outputs["predictions"]:
                file.write(json.dumps(prediction | {"step": step}, ensure_ascii=False) + "\n")

    def _show(self, trainer: Trainer, tag: str, step: int) -> None:
        if not self._sample:
            return
        text = "\n\n---\n\n".join(_format_all(self._sample))
        rows = [{key: str(row.get(key)) for key in COLUMNS} for row in self._sample]
        log_table(trainer.loggers, tag, rows, text, step)


def _format_all(sample: Sequence[Prediction]) -> Iterator[str]:
    """Format predictions as Markdown; lines that all prompts share, as of a template, come once."""
    prompts = [prediction["prompt"].splitlines() for prediction in sample]
    start = end = 0
    if len({prediction["prompt"] for prediction in sample}) > 1:
        start = _count_shared(prompts)
        end = _count_shared([lines[start:][::-1] for lines in prompts])
    first = prompts[0]
    for words, lines in (("starts", first[:start]), ("ends", first[len(first) - end :])):
        if any(lines):
            text = "\n".join(lines).strip("\n")
            yield f"Every prompt {words} with\n\n{code_block(text)}"
    for prediction, lines in zip(sample, prompts, strict=True):
        prompt = "\n".join(lines[start : len(lines) - end]).strip("\n")
        yield _format(prediction, prompt)


def _count_shared(texts: Sequence[Sequence[str]]) -> int:
    """Count the lines with which all texts start."""
    groups = zip(*texts, strict=False)
    return sum(1 for _ in takewhile(lambda lines: len(set(lines)) == 1, groups))


def _format(prediction: Prediction, prompt: str) -> str:
    """Format a prediction; the indented block shows markup as text."""
    mark = {True: "right", False: "wrong", None: "not judged"}[prediction.get("correct")]
    return (
        f"**{markdown(prediction['task'])}** {markdown(prediction['id'])}: {mark}\n\n"
        f"{code_block(prompt)}\n\n"
        f"answer: {code(prediction['output'])}, expected: {code(prediction['reference'])}"
    )
