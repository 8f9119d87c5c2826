"""Train a configuration with Hugging Face Trainer and PEFT: padded batches, logits of every token.

`benchmarking.pipeline` runs this module in a process of its own:

    python -m tera_pl.benchmarking.hf_trainer --config X [overrides, as for fit]
"""

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import DataCollatorForSeq2Seq, Trainer, TrainerCallback, TrainingArguments

from tera_pl.allocator import keep_freed_memory
from tera_pl.callbacks.resources import peak_memory_bytes
from tera_pl.cli import ConfigurationCLI, build, guard
from tera_pl.errors import UserError
from tera_pl.models.backbone import add_adapter, load_model


class _StepTimer(TrainerCallback):
    """Sums the seconds of training steps."""

    seconds = 0.0
    _start = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._start = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds += time.perf_counter() - self._start


class _Trainer(Trainer):
    """Counts the tokens of the training batches, without padding."""

    tokens = 0

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        # Not in the collator: batches are fetched ahead, and the last one is never used.
        self.tokens += int(inputs["attention_mask"].sum())
        return super().training_step(model, inputs, *args, **kwargs)


def main(args: Sequence[str]) -> int:
    """Train with Hugging Face Trainer and print what its steps took, as a last line of JSON.

    Args:
        args: `--config` and overrides, as for `fit`.

    Returns:
        0.

    Raises:
        UserError: If `data.init_args.tokens_per_batch` is set.
    """
    cli = build(ConfigurationCLI, ["fit", *args])
    task, data, settings = cli.model, cli.datamodule, cli.trainer_settings
    if data.tokens_per_batch is not None:
        raise UserError(
            "data.init_args.tokens_per_batch is set: Hugging Face Trainer has batches of a fixed "
            "number of examples: expected null"
        )
    if not torch.cuda.is_available():
        keep_freed_memory()  # as `fit` does
    data.prepare_data()
    data.setup("fit")
    # The default attention of transformers, whatever the configuration says.
    model = load_model(replace(task.backbone, attn_implementation=None))
    if task.adapter is not None:
        model = add_adapter(model, task.adapter)
    rows = data.train_dataloader().dataset
    timer = _StepTimer()
    with tempfile.TemporaryDirectory() as folder:
        trainer = _Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=folder,
                max_steps=settings["max_steps"],
                per_device_train_batch_size=data.batch_size,
                gradient_accumulation_steps=settings["accumulate_grad_batches"],
                gradient_checkpointing=task.backbone.gradient_checkpointing,
                max_grad_norm=settings["gradient_clip_val"] or 0.0,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                use_cpu=not torch.cuda.is_available(),
            ),
            train_dataset=rows.map(lambda row: {"attention_mask": [1] * len(row["input_ids"])}),
            data_collator=DataCollatorForSeq2Seq(data.tokenizer),
            callbacks=[timer],
        )
        trainer.train()
    measured = {
        "train_tokens": trainer.tokens,
        "train_seconds": timer.seconds,
        "tokens_per_second": trainer.tokens / timer.seconds,
        "peak_memory_bytes": peak_memory_bytes(),
    }
    sys.stdout.write(json.dumps(measured) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(guard(lambda: main(sys.argv[1:])))
