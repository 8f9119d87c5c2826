"""Extraction against tables; accuracy against counting, in one process and in two."""

import re

import pytest
import torch
import torch.distributed as dist

from tera_pl.metrics import ChoiceAccuracy, NumericAccuracy, extract_choice
from tests import forks

ANSWERS = [f"answer{i}" for i in range(1, 6)]

CASES = [
    # text, choices, the literature's result, the strict one
    ("the correct answer is answer2", ANSWERS, "answer2", "answer2"),
    ("the correct answer is: answer2.", ANSWERS, "answer2", "answer2"),
    (" the correct answer is  answer2\n", ANSWERS, "answer2", "answer2"),
    ("answer3", ANSWERS, "answer3", None),
    ("not answer1 but answer4", ANSWERS, "answer1", None),
    ("Answer1", ANSWERS, None, None),
    ("the correct answer is answer12", ANSWERS, "answer1", None),
    ("the correct answer is answer1. the correct answer is answer2", ANSWERS, "answer1", None),
    ("the correct answer is answer1. the correct answer is answer1", ANSWERS, "answer1", "answer1"),
    ("that is untrue", ["true", "false"], "true", None),
    ("the correct answer is true", ["true", "false"], "true", "true"),
    ("false, so the correct answer is true", ["true", "false"], "false", "true"),
    ("", ANSWERS, None, None),
    ("ответ: answer5", ANSWERS, "answer5", None),
    ("the correct answer is ответ", ANSWERS, None, None),
]


@pytest.mark.parametrize(("text", "choices", "literature", "strict"), CASES)
def test_extraction(text, choices, literature, strict):
    assert extract_choice(text, choices) == literature
    assert extract_choice(text, choices, strict=True) == strict


@pytest.mark.parametrize("text", [case[0] for case in CASES])
def test_first_match_is_the_published_scorer(text):
    # The rule of LLM-Adapters' commonsense evaluation, written out for the answer family.
    found = re.findall(r"answer1|answer2|answer3|answer4|answer5", text)
    assert extract_choice(text, ANSWERS) == (found[0] if found else None)


def test_choices_are_taken_to_the_letter():
    assert extract_choice("aXb", ["a.b"]) is None


def records(tasks, references):
    return [
        {"task": task, "reference": reference, "choices": ANSWERS}
        for task, reference in zip(tasks, references, strict=True)
    ]


OUTPUTS = ["the correct answer is answer1", "answer2", "nothing", "answer4", "answer1"]
RECORDS = records(
    ["x", "x", "yé", "yé", "yé"], ["answer1", "answer2", "answer1", "answer3", "answer1"]
)
EXPECTED = {
    "accuracy": 3 / 5,
    "accuracy_strict": 1 / 5,
    "accuracy_average": (2 / 2 + 1 / 3) / 2,
    "extracted": 4 / 5,
    "accuracy/x": 1.0,
    "accuracy/yé": 1 / 3,
    "accuracy_strict/x": 1 / 2,
    "accuracy_strict/yé": 0.0,
}


def test_scores_by_counting():
    metric = ChoiceAccuracy()
    metric.update(OUTPUTS[:2], RECORDS[:2])
    metric.update(OUTPUTS[2:], RECORDS[2:])
    scores = {name: value.item() for name, value in metric.compute().items()}
    assert scores == pytest.approx(EXPECTED)
    assert set(metric.names()) <= scores.keys()


def test_reset_forgets():
    metric = ChoiceAccuracy()
    metric.update(OUTPUTS, RECORDS)
    metric.reset()
    assert metric.compute() == {}


def _one_of_two(rank, folder):
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    metric = ChoiceAccuracy()
    # Uneven: two examples here, three there, with tasks the other process does not know.
    part = slice(0, 2) if rank == 0 else slice(2, 5)
    metric.update(OUTPUTS[part], RECORDS[part])
    # And one metric that sees examples in the first process only.
    alone = NumericAccuracy()
    if rank == 0:
        alone.update(["8", "nine"], [{"task": "t", "reference": "8"}] * 2)
    scores = [{n: v.item() for n, v in some.compute().items()} for some in (metric, alone)]
    torch.save(scores, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_score_as_one(tmp_path):
    assert forks.call(_one_of_two, (0, tmp_path), (1, tmp_path)) == [0, 0]
    for rank in range(2):
        uneven, alone = torch.load(tmp_path / f"{rank}.pt")
        assert uneven == pytest.approx(EXPECTED)
        assert alone["accuracy"] == alone["extracted"] == alone["accuracy/t"] == 0.5
