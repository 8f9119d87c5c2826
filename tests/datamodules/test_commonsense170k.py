"""The LLM-Adapters format, small and made here, and the real files where they are."""

import gzip
import hashlib
import json

import pytest

from datamodules import Commonsense170k, Split
from datamodules.cloze import as_cloze
from datamodules.commonsense170k import LABELS, TASKS
from datamodules.leaks import count_repeats, find_leaks


def item(**changes):
    return {
        "instruction": "What color is it?\n\nAnswer1: blue Answer2: red\n\n"
        "Answer format: answer1/answer2",
        "input": "",
        "output": "the correct answer is answer2",
        "answer": "answer2",
    } | changes


def make(folder, tiny_backbone, tasks=("openbookqa",), train=(), test=(), **kwargs):
    for task in tasks:
        (folder / task).mkdir(exist_ok=True)
        (folder / task / "train.json").write_text(json.dumps(list(train) or [item()] * 5))
        (folder / task / "test.json").write_text(json.dumps(list(test) or [item()] * 2))
    return Commonsense170k(str(tiny_backbone), str(folder), list(tasks), split=Split(2), **kwargs)


def test_record_is_what_the_file_says(tmp_path, tiny_backbone):
    data = make(tmp_path, tiny_backbone)
    record = data.test_records()[1]
    assert record["prompt"] == item()["instruction"]
    assert record["response"] == "the correct answer is answer2"
    assert record["reference"] == "answer2"
    assert record["task"] == "openbookqa"
    assert record["choices"] == ["answer1", "answer2", "answer3", "answer4", "answer5"]
    assert record["id"] == "openbookqa/test.json:1"


def test_validation_is_a_fixed_part_of_the_training_data(tmp_path, tiny_backbone):
    items = [item(instruction=f"{i}\n\nAnswer format: answer1/answer2") for i in range(9)]
    data = make(tmp_path, tiny_backbone, train=items)
    splits = [data.split(data.train_records()) for _ in range(2)]
    assert splits[0] == splits[1]
    train, val = ([r["id"] for r in part] for part in splits[0])
    assert len(val) == 2
    assert train == sorted(train)
    assert sorted(train + val) == sorted(r["id"] for r in data.train_records())


def test_batches_keep_the_contract(tmp_path, tiny_backbone):
    data = make(tmp_path, tiny_backbone, batch_size=2)
    data.setup("fit")
    train = next(iter(data.train_dataloader()))
    assert train.keys() == {"input_ids", "attention_mask", "labels"}
    val = next(iter(data.val_dataloader()))
    assert val.keys() == train.keys() | {"prompt_input_ids", "prompt_attention_mask", "records"}
    assert data.statistics()["train"]["examples"] == 3
    assert data.statistics()["val"]["by_task"]["openbookqa"]["examples"] == 2


def test_mixed_file_tells_tasks_by_their_labels(tmp_path, tiny_backbone):
    texts = {
        "boolq": "Answer format: true/false",
        "piqa": "Answer format: solution1/solution2",
        "hellaswag": "Answer format: ending1/ending2/ending3/ending4",
        "winogrande": "Option1: a Option2: b Answer format: option1/option2",
        "answer": "Answer format: answer1/answer2/answer3",
    }
    answers = ["true", "solution2", "ending4", "option1", "answer3"]
    items = [
        item(instruction=f"q\n\n{text}", answer=answer, output=f"the correct answer is {answer}")
        for text, answer in zip(texts.values(), answers, strict=True)
    ]
    (tmp_path / "commonsense_170k.json").write_text(json.dumps(items))
    data = Commonsense170k(str(tiny_backbone), str(tmp_path))
    assert [record["task"] for record in data.train_records()] == list(texts)
    some = Commonsense170k(str(tiny_backbone), str(tmp_path), ["boolq", "ARC-Easy"])
    assert [record["task"] for record in some.train_records()] == ["boolq", "answer"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output": ""}, r"test.json, record 0: field 'output' is empty"),
        ({"output": 3}, r"record 0: field 'output' is a number"),
        ({"instruction": None}, r"record 0: field 'instruction' is a null"),
        ({"answer": "answer9"}, r"record 0: answer 'answer9' is none of answer1"),
        ({"answer": "Answer1"}, r"record 0: answer 'Answer1' is none of"),
        ({"answer": "answer1"}, r"record 0: field 'output' says 'answer2' .* 'answer' 'answer1'"),
        ({"output": "answer1 is wrong, answer2 right"}, r"'output' says 'answer1'"),
        ({"output": "the second one"}, r"'output' holds no label, .*the correct answer is answer2"),
    ],
)
def test_broken_record_is_named(changes, message, tmp_path, tiny_backbone):
    data = make(tmp_path, tiny_backbone, test=[item(**changes)])
    with pytest.raises(ValueError, match=message):
        data.setup("test")


def test_record_without_a_field_is_named(tmp_path, tiny_backbone):
    broken = item()
    del broken["answer"]
    data = make(tmp_path, tiny_backbone, test=[item(), broken])
    with pytest.raises(ValueError, match=r"record 1: no field 'answer'"):
        data.setup("test")


def test_too_few_records_for_validation(tmp_path, tiny_backbone):
    data = make(tmp_path, tiny_backbone, train=[item()] * 2)
    with pytest.raises(ValueError, match=r"split.size is 2, the training data has 2 records"):
        data.setup("fit")


def test_unknown_folder_and_task(tmp_path, tiny_backbone):
    with pytest.raises(ValueError, match="no folder"):
        Commonsense170k(str(tiny_backbone), str(tmp_path / "x")).setup("fit")
    with pytest.raises(ValueError, match="boolq"):
        Commonsense170k(str(tiny_backbone), str(tmp_path), ["boolq"]).setup("fit")
    with pytest.raises(ValueError, match="each once"):
        Commonsense170k(str(tiny_backbone), str(tmp_path), ["boolq", "boolq"])


def test_training_questions_of_the_test_set_are_named_and_dropped(tmp_path, tiny_backbone):
    train = [item(instruction=f"{i}\n\nAnswer format: answer1/answer2") for i in range(6)]
    test = [item(instruction="4 ! answer FORMAT: answer1/answer2"), train[1]]
    data = make(tmp_path, tiny_backbone, train=train, test=test)
    with pytest.warns(UserWarning, match="2 of 6 training questions occur in a test set, kept"):
        data.setup("fit")
    leaks = data.statistics()["leaks"]
    assert leaks == {
        "action": "report",
        "found": {
            "openbookqa/train.json:1": "openbookqa/test.json:1",
            "openbookqa/train.json:4": "openbookqa/test.json:0",
        },
    }
    assert "leaks" not in data.describe_protocol()
    dropped = make(tmp_path, tiny_backbone, train=train, test=test, leaks="drop")
    with pytest.warns(UserWarning, match="dropped: openbookqa/train.json:1 is openbookqa/test"):
        dropped.setup("fit")
    counts = dropped.statistics()
    assert counts["train"]["examples"] + counts["val"]["examples"] == 4
    # A checkpoint of the one is not resumed with the other.
    assert dropped.describe_protocol()["leaks"] == "drop"


def test_training_files_are_identified_by_their_content(tmp_path, tiny_backbone):
    data = make(tmp_path, tiny_backbone)
    path = tmp_path / "openbookqa" / "train.json"
    content = path.read_bytes()
    path.unlink()
    path.with_name("train.json.gz").write_bytes(gzip.compress(content))
    data.setup("fit")
    expected = {"openbookqa/train.json.gz": hashlib.sha256(content).hexdigest()}
    assert data.training_files() == expected


def test_training_without_a_test_set_says_what_it_did_not_compare(tmp_path, tiny_backbone):
    data = make(tmp_path, tiny_backbone)
    (tmp_path / "openbookqa" / "test.json").unlink()
    with pytest.warns(UserWarning, match=r"not compared with test records: .*has none"):
        data.setup("fit")
    assert "has none" in data.statistics()["leaks"]["not_compared"]


def test_a_malformed_test_set_is_found_before_training(tmp_path, tiny_backbone):
    data = make(tmp_path, tiny_backbone, test=[item(answer="answer9")])
    with pytest.raises(ValueError, match=r"test\.json, record 0: answer 'answer9'"):
        data.setup("fit")


def test_repeated_records_are_counted(tmp_path, tiny_backbone):
    other = item(output="the correct answer is answer1", answer="answer1")
    data = make(tmp_path, tiny_backbone, train=[item()] * 4 + [other], test=[item(), other])
    data.setup("fit")
    data.setup("test")
    assert data.statistics()["repeats"] == {
        "train_and_val": {"same_response": 3, "other_response": 1},
        "test": {"same_response": 0, "other_response": 1},
    }


COUNTS = {
    "boolq": (9427, 3270),
    "piqa": (16113, 1838),
    "winogrande": (40398, 1267),
    "ARC-Easy": (2251, 2376),
    "ARC-Challenge": (1119, 1172),
    "openbookqa": (4957, 500),
}


# What the published files hold, as docs/protocols.md says.
LEAKS = {"boolq": 1, "piqa": 3, "ARC-Easy": 2}
REPEATS = {"piqa": (6, 0), "winogrande": (2, 2), "ARC-Challenge": (1, 0), "openbookqa": (5, 0)}


@pytest.mark.parametrize("task", COUNTS)
@pytest.mark.slow
def test_real_files_have_their_counts(task, shared, tiny_backbone):
    data = Commonsense170k(str(tiny_backbone), str(shared / "data" / "commonsense"), [task])
    train, test = data.train_records(), data.test_records()
    assert (len(train), len(test)) == COUNTS[task]
    assert {record["reference"] for record in train + test} <= set(LABELS[task])
    for record in train[:200] + test[:200]:
        assert record["response"] == f"the correct answer is {record['reference']}"
    assert len(find_leaks(train, test)) == LEAKS.get(task, 0)
    assert tuple(count_repeats(train).values()) == REPEATS.get(task, (0, 0))
    assert tuple(count_repeats(test).values()) == (0, 0)
    # Every question has a cloze form, and no wrong option is the text of the correct one.
    cloze_train, cloze_test = ([as_cloze(r, r["id"]) for r in part] for part in (train, test))
    for record in cloze_train + cloze_test:
        answers = [candidate["answer"] for candidate in record["candidates"]]
        assert answers.count(record["reference"]) == 1
    # Questions are the same in both forms.
    assert find_leaks(cloze_train, cloze_test) == find_leaks(train, test)
    assert count_repeats(cloze_train) == count_repeats(train)


def test_eight_tasks_are_known():
    assert set(TASKS) == set(LABELS)
    assert len(TASKS) == 8


def test_a_token_budget_takes_every_example_once(tmp_path, tiny_backbone):
    items = [item(instruction=f"{'why ' * i}\n\nAnswer format: answer1/answer2") for i in range(9)]
    data = make(tmp_path, tiny_backbone, train=items)
    data.setup("fit")
    lengths = sorted(len(row) for row in data._encoded["train"]["input_ids"])
    budget = lengths[-1] + lengths[0]
    limited = make(tmp_path, tiny_backbone, train=items, tokens_per_batch=budget)
    limited.setup("fit")
    masks = [batch["attention_mask"] for batch in limited.train_dataloader()]
    assert all(mask.sum() <= budget for mask in masks)
    assert sorted(int(n) for mask in masks for n in mask.sum(1)) == lengths
    assert max(len(mask) for mask in masks) > 1


def test_an_example_above_the_budget_is_named(tmp_path, tiny_backbone):
    items = [item(instruction=f"{'why ' * i}\n\nAnswer format: answer1/answer2") for i in range(9)]
    data = make(tmp_path, tiny_backbone, train=items, tokens_per_batch=20)
    data.setup("fit")
    message = r"tokens_per_batch is 20, but training example openbookqa/train.json:8 has \d+ tokens"
    with pytest.raises(ValueError, match=message):
        data.train_dataloader()
    with pytest.raises(ValueError, match=r"data\.tokens_per_batch is 0: expected at least 1"):
        make(tmp_path, tiny_backbone, tokens_per_batch=0)
