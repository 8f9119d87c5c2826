"""Padding, by hand."""

import torch

from datamodules.batching import EvalCollator, TrainCollator

ROWS = [
    {"input_ids": [1, 5, 6], "labels": [-100, 5, 6], "prompt_ids": [1], "record": {"id": "a"}},
    {"input_ids": [1, 7], "labels": [-100, 7], "prompt_ids": [1, 8, 9], "record": {"id": "b"}},
]


def test_training_batch_is_padded_on_the_right():
    batch = TrainCollator(pad_id=0)(ROWS)
    assert batch["input_ids"].tolist() == [[1, 5, 6], [1, 7, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == [[-100, 5, 6], [-100, 7, -100]]
    assert batch["input_ids"].dtype == torch.int64


def test_prompts_are_padded_on_the_left():
    batch = EvalCollator(pad_id=0)(ROWS)
    assert batch["prompt_input_ids"].tolist() == [[0, 0, 1], [1, 8, 9]]
    assert batch["prompt_attention_mask"].tolist() == [[0, 0, 1], [1, 1, 1]]
    assert [record["id"] for record in batch["records"]] == ["a", "b"]
    assert batch["labels"].tolist() == TrainCollator(pad_id=0)(ROWS)["labels"].tolist()
