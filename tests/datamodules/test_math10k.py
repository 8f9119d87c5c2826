"""Math10k in the LLM-Adapters format, small and made here, and the real files where they are."""

import json

import pytest

from datamodules import Math10k, Split
from datamodules.leaks import find_leaks


def item(**changes):
    return {
        "instruction": "Tom has 2 apples and 3 pears. How many fruits?\n ",
        "input": "",
        "output": "2 + 3 = 5. The answer is 5",
        "answer": "5.0",
    } | changes


LETTER = item(
    instruction="What is 1+1? Answer Choices: (A) 1 (B) 2 (C) 3 (D) 4 (E) 5", answer="B", output="x"
)


def make(folder, tokenizer, train=(), test=(), tasks=("SVAMP",), **settings):
    for task in tasks:
        (folder / task).mkdir(exist_ok=True)
        (folder / task / "test.json").write_text(json.dumps(list(test) or [item(output="")]))
    (folder / "math_10k.json").write_text(json.dumps(list(train) or [item()] * 5))
    return Math10k(str(tokenizer), str(folder), list(tasks), split=Split(2), **settings)


def test_training_records(tmp_path, tiny_backbone):
    data = make(tmp_path, tiny_backbone, train=[item(), LETTER], test=[item(instruction="other")])
    number, letter = data.train_records()
    assert number == {
        "prompt": item()["instruction"],
        "response": item()["output"],
        "task": "number",
        "reference": "5.0",
        "choices": None,
        "id": "math_10k.json:0",
    }
    assert letter["choices"] == ["A", "B", "C", "D", "E"]
    assert letter["task"] == "letter"


def test_test_records_answer_with_the_answer(tmp_path, tiny_backbone):
    """The published `output` of a test record is another model's, and often wrong or empty."""
    data = make(tmp_path, tiny_backbone, test=[item(output=""), item(output="wrong", answer="7")])
    assert [r["response"] for r in data.test_records()] == ["5.0", "7"]
    assert {r["task"] for r in data.test_records()} == {"SVAMP"}


def test_leaks_are_named_and_dropped_on_demand(tmp_path, tiny_backbone):
    asked = "Tom has 2 apples, and 3 pears.  how many FRUITS?"
    new = [item(instruction=f"Tom has {i} apples") for i in range(3)]
    train, test = [item(), *new, item()], [item(instruction=asked)]
    data = make(tmp_path, tiny_backbone, train, test)
    with pytest.warns(UserWarning, match=r"2 of 5 training questions .* SVAMP/test.json:0"):
        data.setup("fit")
    leaked = dict.fromkeys(["math_10k.json:0", "math_10k.json:4"], "SVAMP/test.json:0")
    assert data.statistics()["leaks"]["found"] == leaked
    data = make(tmp_path, tiny_backbone, train, test, leaks="drop")
    with pytest.warns(UserWarning, match="dropped"):
        data.setup("fit")
    assert data.statistics()["train"]["examples"] == 1


def test_sets_that_are_not_tested_on_leak_too(tmp_path, tiny_backbone):
    data = make(tmp_path, tiny_backbone, tasks=("SVAMP", "mawps"))
    data.tasks = ["SVAMP"]
    assert [r["task"] for r in data.records_to_keep_out()] == ["SVAMP", "mawps"]


def test_outputs_that_contradict_the_answer_are_counted(tmp_path, tiny_backbone):
    """The published rationales are a language model's: some end in another answer."""
    train = [
        item(),
        item(output="so 1,005.0004 is it", answer="1005"),
        item(output="2 + 3 = 6"),
        item(output="five"),
        LETTER | {"output": "A is wrong, so B"},
        LETTER | {"output": "Because of that, A."},
    ]
    data = make(tmp_path, tiny_backbone, train)
    with pytest.warns(UserWarning, match=r"3 of 6 records ends in another .*math_10k.json:2, "):
        data.train_records()
    assert data.statistics()["contradictions"] == {
        "found": 3,
        "of": 6,
        "first": ["math_10k.json:2", "math_10k.json:3", "math_10k.json:5"],
    }


def test_options_do_not_hide_a_leak():
    """AQuA's training and test files write options in different ways."""
    records = [
        {"prompt": "What is 1+1? The options are: A)1 B)2", "id": "train:0"},
        {"prompt": "What is 1+1? Answer Choices: (A) 1 (B) 2", "id": "test:0"},
    ]
    assert find_leaks(records[:1], records[1:]) == {0: "test:0"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": "five"}, r"record 0: answer 'five' is neither a number"),
        ({"answer": "nan"}, "neither a number"),
        ({"answer": "inf"}, "neither a number"),
        ({"answer": "F"}, "neither a number"),
        ({"answer": ""}, "'answer' is empty"),
        ({"answer": 5.0}, "'answer' is a number: expected text"),
        ({"output": ""}, "'output' is empty"),
        ({"instruction": None}, "'instruction' is a null"),
        ({"input": ["x"]}, "'input' is a list"),
    ],
)
def test_broken_record_is_named(tmp_path, tiny_backbone, changes, message):
    data = make(tmp_path, tiny_backbone, train=[item(**changes)])
    with pytest.raises(ValueError, match=message):
        data.train_records()


def test_size_that_was_not_published_is_told(tmp_path, tiny_backbone):
    with pytest.warns(UserWarning, match=r"has 1 records, the published file 1,000 \(-999\)"):
        make(tmp_path, tiny_backbone).test_records()


def test_real_files_have_their_counts(shared, recwarn):
    data = Math10k(
        "none",
        str(shared / "data" / "math"),
        ["AQuA", "SVAMP", "gsm8k", "mawps"],
        train_file="math_10k_subset/train.json.gz",
    )
    assert len(data.test_records()) == 254 + 1_000 + 1_319 + 238
    assert not recwarn.list
    train = data.train_records()
    assert len(train) == 2_164
    assert data.statistics()["contradictions"]["found"] == 2  # of the four with letters
    # AQuA and SVAMP do not leak into these; 10 questions of MAWPS do.
    found = find_leaks(train, data.records_to_keep_out())
    assert len(found) == 10
    assert {name.split("/")[0] for name in found.values()} == {"mawps"}
