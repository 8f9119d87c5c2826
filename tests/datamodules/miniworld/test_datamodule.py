"""MiniWorld through the datamodule's contract."""

import pytest

from datamodules import MiniWorld, MiniWorldPretraining
from tests.conftest import ROOT

BASE = str(ROOT / "datamodules" / "miniworld" / "base")


def test_splits_and_batches():
    data = MiniWorld(BASE, num_train=400, num_test=50, batch_size=8)
    data.setup("fit")
    data.setup("test")
    counts = data.statistics()
    assert [counts[name]["examples"] for name in ("train", "val", "test")] == [280, 120, 50]
    assert all(counts[name]["truncated_prompts"] == 0 for name in ("train", "val", "test"))
    assert counts["leaks"]["found"] == {}
    batch = next(iter(data.val_dataloader()))
    assert data.tokenizer.unk_token_id not in batch["input_ids"]
    record = batch["records"][0]
    assert record["response"] == f"the correct answer is {record['reference']}"
    supervised = [label for label in batch["labels"][0].tolist() if label != -100]
    assert data.tokenizer.decode(supervised, skip_special_tokens=True) == record["response"]


def test_documents_are_trained_on_in_order():
    data = MiniWorldPretraining(BASE, num_documents=50, batch_size=2, val_size=5)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    texts = [record["response"] for record in data.train_records()[:2]]
    assert data.tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True) == [
        data.tokenizer.decode(data.tokenizer(text)["input_ids"], skip_special_tokens=True)
        for text in texts
    ]
    assert (batch["labels"] == batch["input_ids"])[batch["attention_mask"].bool()].all()
    assert data.statistics()["val"]["examples"] == 5
    assert data.statistics()["train"]["examples"] == 50


def test_same_seed_same_questions():
    first, second = (MiniWorld(BASE, seed=3).test_records() for _ in range(2))
    assert first == second
    assert MiniWorld(BASE, seed=4).test_records() != first


def test_too_few_questions_for_validation():
    with pytest.raises(ValueError, match=r"split\.size is 120, the training data has 100 records"):
        MiniWorld(BASE, num_train=100).setup("fit")
