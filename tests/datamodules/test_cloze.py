"""Cloze forms against those of lm-evaluation-harness, written out, and their tokens."""

import json

import pytest

from datamodules import Commonsense170k, Encoding, Split
from datamodules.cloze import PROMPTS, as_cloze
from datamodules.tokenization import encode

QUESTION = "Please choose the correct answer to the question: "
SENTENCE = "Please choose the correct answer to fill in the blank to complete the given sentence: "
SOLUTION = "Please choose the correct solution to the question: "
TRUE_OR_FALSE = "Please answer the following question with true or false, question: "
TWO = "\n\nAnswer format: answer1/answer2"
FOUR = f"{TWO}/answer3/answer4"
SOLUTIONS = "Answer format: solution1/solution2"
OPTIONS = "Answer format: option1/option2"
# Task, instruction and answer; then by hand: prompts, continuations, answers, the correct one.
CASES = {
    "four answers": (
        "ARC-Easy",
        f"{QUESTION}Why: a? b?\n\nAnswer1: a b. Answer2:  c Answer3: d:e Answer4: 1{FOUR}",
        "answer3",
        ["Question: Why: a? b?\nAnswer:"] * 4,
        [" a b.", "  c", " d:e", " 1"],
        ["a b.", " c", "d:e", "1"],
        2,
    ),
    "three answers": (
        "ARC-Challenge",
        f"{QUESTION}Why?\n\nAnswer1: x Answer2: y Answer3: z{TWO}/answer3",
        "answer1",
        ["Question: Why?\nAnswer:"] * 3,
        [" x", " y", " z"],
        ["x", "y", "z"],
        0,
    ),
    "a sentence to complete": (
        "openbookqa",
        f"{QUESTION}The sun is\n\nAnswer1: hot Answer2: cold{TWO}",
        "answer2",
        ["The sun is"] * 2,
        [" hot", " cold"],
        ["hot", "cold"],
        1,
    ),
    "white space is kept": (
        "piqa",
        f"{SOLUTION}How?\nSo.\n\nSolution1: by hand \n\nSolution2: by\n\nfoot\n\n{SOLUTIONS}",
        "solution1",
        ["Question: How?\nSo.\nAnswer:"] * 2,
        [" by hand ", " by\n\nfoot"],
        ["by hand ", "by\n\nfoot"],
        0,
    ),
    "what follows the blank": (
        "winogrande",
        f"{SENTENCE}Ann met Eve: _ was late.\n\nOption1: Ann Option2: Eve {OPTIONS}",
        "option2",
        ["Ann met Eve: Ann", "Ann met Eve: Eve"],
        [" was late."] * 2,
        ["Ann", "Eve"],
        1,
    ),
    "yes or no": (
        "boolq",
        f"{TRUE_OR_FALSE}is it so?\n\nAnswer format: true/false",
        "true",
        ["Question: is it so?\nAnswer:"] * 2,
        [" no", " yes"],
        ["no", "yes"],
        1,
    ),
}


def make_record(task, instruction, answer):
    return {
        "prompt": instruction,
        "response": f"the correct answer is {answer}",
        "task": task,
        "reference": answer,
        "choices": ["answer1"],
        "id": "f:0",
    }


@pytest.mark.parametrize("case", CASES)
def test_forms_are_those_of_the_harness(case):
    task, instruction, answer, prompts, continuations, answers, correct = CASES[case]
    record = as_cloze(make_record(task, instruction, answer), "f, record 0")
    keys = ("prompt", "continuation", "answer")
    for key, expected in zip(keys, (prompts, continuations, answers), strict=True):
        assert [candidate[key] for candidate in record["candidates"]] == expected
    assert record["prompt"] == prompts[correct]
    assert record["response"] == continuations[correct]
    assert record["reference"] == answers[correct]
    assert (record["choices"], record["task"], record["id"]) == (None, task, "f:0")


def test_every_form_is_checked():
    assert {case[0] for case in CASES.values()} == PROMPTS.keys()


@pytest.mark.parametrize(
    ("task", "instruction", "answer", "message"),
    [
        ("piqa", "Solution1: a", "solution1", "'Answer format: ...' at its end"),
        ("piqa", "Q: x\n\nAnswer format: a1/a2", "a1", "A1: , A2: each once"),
        ("piqa", "Q: x\n\nA1: y A1: z A2: c\n\nAnswer format: a1/a2", "a1", "A1: , A2: each once"),
        ("piqa", "Q: x\n\nA2: y A1: z\n\nAnswer format: a1/a2", "a1", "A1: , A2: in this order"),
        ("piqa", "Q: x\n\nA1:  A2: z\n\nAnswer format: a1/a2", "a1", "options that are not empty"),
        (
            "piqa",
            "Q: x\n\nA1: y A2: z\n\nAnswer format: a1/a2",
            "a3",
            "'a3' is none of its options",
        ),
        ("winogrande", "Q: x\n\nA1: y A2: z\n\nAnswer format: a1/a2", "a1", "one blank '_'"),
        ("winogrande", "Q: x_\n\nA1: y A2: z\n\nAnswer format: a1/a2", "a1", "text after it"),
        ("boolq", "is it so?\n\nAnswer format: true/false", "true", "', question: ' before"),
    ],
)
def test_what_has_no_cloze_form_is_named(task, instruction, answer, message):
    with pytest.raises(ValueError, match="f, record 7: ") as error:
        as_cloze(make_record(task, instruction, answer), "f, record 7")
    assert message in str(error.value)


def make_data(folder, tiny_backbone, **settings):
    (folder / "openbookqa").mkdir(parents=True, exist_ok=True)
    items = [
        {
            "instruction": f"{QUESTION}What {'sky ' * i}color is\n\nAnswer1: blue Answer2: the sky "
            f"red\n\nAnswer format: answer1/answer2",
            "input": "",
            "output": f"the correct answer is answer{1 + i % 2}",
            "answer": f"answer{1 + i % 2}",
        }
        for i in range(9)
    ]
    for split in ("train", "test"):
        (folder / "openbookqa" / f"{split}.json").write_text(json.dumps(items))
    settings = {"form": "cloze", "split": Split(3), **settings}
    return Commonsense170k(str(tiny_backbone), str(folder), ["openbookqa"], **settings)


def test_batches_have_a_row_for_every_candidate(tmp_path, tiny_backbone):
    encoding = Encoding("{instruction}", tokenize="joint")
    data = make_data(tmp_path, tiny_backbone, encoding=encoding, eval_batch_size=4)
    data.setup("test")
    tokenizer = data.tokenizer
    seen = []
    for batch in data.test_dataloader():
        rows = batch["candidates"]
        remaining = iter(range(len(rows["labels"])))
        for record in batch["records"]:
            seen.append(record["id"])
            for candidate in record["candidates"]:
                row = next(remaining)
                ids = rows["input_ids"][row][rows["attention_mask"][row].bool()].tolist()
                text = candidate["prompt"] + candidate["continuation"]
                assert ids == [tokenizer.bos_token_id, *tokenizer(text)["input_ids"]]
                labels = rows["labels"][row]
                scored = tokenizer.decode(labels[labels != -100])
                assert scored == candidate["continuation"].strip()
        assert next(remaining, None) is None
    assert sorted(seen) == [f"openbookqa/test.json:{i}" for i in range(9)]
    # Nine words: BOS, What, eight times sky, color, is, the, sky, red.
    assert data.longest_sequences("test")["candidate"] == (15, "openbookqa/test.json:8")
    assert data.statistics()["test"]["max_candidate_tokens"] == 15
    assert data.describe_protocol()["form"] == "cloze"
    assert "form" not in make_data(tmp_path, tiny_backbone, form="labels").describe_protocol()


def test_training_learns_the_correct_candidate(tmp_path, tiny_backbone):
    data = make_data(tmp_path, tiny_backbone, encoding=Encoding("{instruction}"))
    data.setup("fit")
    for record, labels in zip(
        data._records["train"], data._encoded["train"]["labels"], strict=True
    ):
        learned = data.tokenizer.convert_ids_to_tokens([i for i in labels if i != -100])
        assert learned == [*record["reference"].split(), "</s>"]
    assert "candidate_ids" not in data._encoded["train"].column_names


def test_prompts_are_cut_and_counted_but_never_continuations(tmp_path, tiny_backbone):
    encoding = Encoding("{instruction}", max_eval_prompt_length=6)
    data = make_data(tmp_path, tiny_backbone, encoding=encoding)
    data.setup("test")
    row = data._encoded["test"][8]
    tokens = ["<s>", "sky", "sky", "sky", "color", "is"]
    for ids, answer in zip(row["candidate_ids"], ["blue", "the sky red"], strict=True):
        assert data.tokenizer.convert_ids_to_tokens(ids) == [*tokens, *answer.split()]
    # BOS, `What`, `sky` i times, `color` and `is` are more than six tokens from i = 3 on.
    assert data.statistics()["test"]["truncated_candidate_prompts"] == 6


def test_tokens_are_those_of_the_harness(shared):
    """`_encode_pair` of lm-evaluation-harness 0.4.13, written out, on real tokenizers."""
    from transformers import AutoTokenizer

    pairs = [
        ("Question: Why?\nAnswer:", " because it is"),
        ("The sun is responsible for", " puppies learning new tricks"),
        ("### Response:\n", "the correct answer"),
        ("ends in spaces  ", "word"),
        ("Ann met Eve: Ann", " was late."),
    ]
    for name in ("llama2_tokenizer", "llama3_tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(shared / "models" / name / "hf")
        candidates = [{"answer": "", "prompt": p, "continuation": c} for p, c in pairs]
        record = make_record("t", "prompt", "r") | {"candidates": candidates}
        row = encode([record], tokenizer, Encoding("{instruction}", tokenize="joint"))[0]
        for (context, continuation), ids, scored in zip(
            pairs, row["candidate_ids"], row["candidate_scored"], strict=True
        ):
            # Spaces at the end of the context move to the continuation.
            context_ids = tokenizer.encode(context.rstrip())
            whole = tokenizer.encode(context + continuation)
            assert ids == context_ids + whole[len(context_ids) :]
            assert scored == len(whole) - len(context_ids)


def test_settings_that_do_not_go_together(tmp_path, tiny_backbone):
    with pytest.raises(ValueError, match=r"form is cloze: expected data.tasks among boolq, piqa"):
        Commonsense170k(str(tiny_backbone), str(tmp_path), form="cloze")
    data = make_data(tmp_path, tiny_backbone)
    (tmp_path / "commonsense_170k.json").write_text("[]")
    with pytest.raises(ValueError, match=r"170k.json does not name the sub-tasks"):
        data.setup("fit")


def test_an_empty_prompt_needs_a_token_before_it(tmp_path, tiny_backbone):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_backbone)
    candidates = [{"answer": "a", "prompt": "", "continuation": " red"}]
    record = make_record("t", "What", "a") | {"candidates": candidates}
    encode([record], tokenizer, Encoding("{instruction}"))
    without = Encoding("{instruction}", add_bos=False)
    with pytest.raises(ValueError, match="f:0: a candidate of 1 tokens after a prompt of 0"):
        encode([record], tokenizer, without)
    with pytest.raises(ValueError, match="template is chat"):
        encode([record], tokenizer, Encoding("chat"))
