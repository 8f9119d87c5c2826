"""Datamodules are completed, and batches that lack a field are refused."""

from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule
from transformers import AutoTokenizer

from datamodules.base import InstructionDataModule
from datamodules.batching import EvalCollator, TrainCollator
from tera_pl import contracts
from tera_pl.contracts import PlainDataModule, check_batch, complete
from tera_pl.errors import UserError


class Plain(LightningDataModule):
    """A datamodule that has nothing but batches, and one optional part."""

    batch_size = 3
    encoding = "utf-8"
    tokenizer = "a/path"


def test_a_datamodule_without_the_optional_parts_is_completed():
    completed = complete(Plain())
    assert completed.batch_size == 3
    assert completed.encoding is None
    assert completed.tokenizer is None
    assert completed.describe_protocol() is None
    assert completed.longest_sequences("train") == {}
    assert complete(None).statistics() is None


def test_the_parts_of_a_datamodule_are_used_as_they_are(tiny_backbone):
    data = InstructionDataModule(str(tiny_backbone), batch_size=5, protocol="ours")
    data.tokenizer = AutoTokenizer.from_pretrained(tiny_backbone)
    completed = complete(data)
    for name in vars(PlainDataModule):
        if not name.startswith("_"):
            assert getattr(completed, name) == getattr(data, name)
    assert completed.describe_protocol()["name"] == "ours"


def test_collated_rows_are_batches_of_the_contract():
    row: dict[str, Any] = {"input_ids": [1, 2], "labels": [-100, 2], "prompt_ids": [1]}
    row["record"] = dict.fromkeys(contracts.Record.__required_keys__, "")
    check_batch(TrainCollator(0)([row]), None, answered=False)
    check_batch(EvalCollator(0)([row]), None, answered=True)


@pytest.mark.parametrize("answered", [False, True])
@pytest.mark.parametrize(
    ("field", "always"), [("labels", True), ("prompt_input_ids", False), ("records", False)]
)
def test_a_batch_without_a_field_is_refused_in_one_line(field, always, answered):
    tensor = torch.ones(1, 1, dtype=torch.long)
    names = contracts.EvalBatch.__required_keys__ - {"records", field}
    batch: dict[str, Any] = dict.fromkeys(names, tensor)
    if field != "records":
        batch["records"] = [{"id": "a:0", "task": "a", "prompt": "?", "reference": "!"}]
    if answered or always:
        with pytest.raises(UserError, match=rf"a batch of Plain has no {field}: expected "):
            check_batch(batch, Plain(), answered=answered)
    else:
        check_batch(batch, Plain(), answered=answered)


def test_candidates_without_a_row_each_are_refused_in_one_line():
    row: dict[str, Any] = {"input_ids": [1, 2], "labels": [-100, 2], "prompt_ids": [1]}
    row["record"] = dict.fromkeys(contracts.Record.__required_keys__, "") | {"candidates": [{}, {}]}
    with pytest.raises(UserError, match="the records of Plain have no candidates"):
        check_batch(EvalCollator(0)([row]), Plain(), answered=True, by_likelihood=True)
    row |= {"candidate_ids": [[1, 2], [1, 3]], "candidate_scored": [1, 1]}
    batch = EvalCollator(0)([row])
    check_batch(batch, Plain(), answered=True, by_likelihood=True)
    check_batch(batch, Plain(), answered=False, by_likelihood=True)
    batch["records"] = batch["records"] * 2
    with pytest.raises(UserError, match=r"Plain has 2 rows of candidates, .* have 4 candidates"):
        check_batch(batch, Plain(), answered=True, by_likelihood=True)


def test_a_record_without_a_field_is_refused_in_one_line():
    batch: dict[str, Any] = dict.fromkeys(contracts.EvalBatch.__required_keys__, torch.ones(1, 1))
    batch["records"] = [{"id": "a:0", "task": "a", "prompt": "?"}]
    with pytest.raises(UserError, match=r"a batch of Plain has no records\[0\]\.reference"):
        check_batch(batch, Plain(), answered=True)
