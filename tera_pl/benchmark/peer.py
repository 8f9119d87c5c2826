"""Train a configuration as plain Hugging Face users do: Trainer, PEFT, padded rows, every logit.

Run:  python -m tera_pl.benchmark.peer --config X [overrides, as for fit]
"""

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import torch
from transformers import DataCollatorForSeq2Seq, Trainer, TrainerCallback, TrainingArguments

from tera_pl.backbone import Backbone, add_adapter, load_model
from tera_pl.callbacks.resources import peak_memory_bytes
from tera_pl.cli import ConfigurationCLI, build, guard


class _Clock(TrainerCallback):
    """Seconds of training steps."""

    seconds = 0.0
    _start = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._start = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds += time.perf_counter() - self._start


class _Collator(DataCollatorForSeq2Seq):
    """Counts tokens that are no padding."""

    tokens = 0

    def __call__(self, features: Any, return_tensors: Any = None) -> Any:
        batch = super().__call__(features, return_tensors)
        self.tokens += int(batch["attention_mask"].sum())
        return batch


def main(args: Sequence[str]) -> int:
    """Train with transformers' Trainer and tell what the steps took, as a last line of JSON.

    Args:
        args: `--config` and overrides, as for `fit`.

    Returns:
        0.
    """
    cli = build(ConfigurationCLI, ["fit", *args])
    task, data, settings = cli.model, cli.datamodule, cli.trainer_settings
    data.prepare_data()
    data.setup("fit")
    # The library's own attention, whatever the configuration says.
    model = load_model(Backbone(task.backbone.path, task.backbone.revision, task.backbone.dtype))
    if task.adapter is not None:
        model = add_adapter(model, task.adapter)
    rows = data.train_dataloader().dataset
    collator, clock = _Collator(data.tokenizer), _Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
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
            data_collator=collator,
            callbacks=[clock],
        )
        trainer.train()
    told = {
        "train_tokens": collator.tokens,
        "train_seconds": clock.seconds,
        "tokens_per_second": collator.tokens / clock.seconds,
        "peak_memory_bytes": peak_memory_bytes(),
    }
    sys.stdout.write(json.dumps(told) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(guard(lambda: main(sys.argv[1:])))
