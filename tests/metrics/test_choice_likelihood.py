"""Choices by likelihood against the formulas of lm-evaluation-harness, in one process and two."""

import numpy as np
import pytest
import torch
import torch.distributed as dist

from tera_pl.contracts import LikelihoodMetric, ScoredCandidate
from tera_pl.errors import UserError
from tera_pl.metrics import ChoiceAccuracy, ChoiceLikelihood
from tests import forks


def make_record(texts, right, task="t"):
    candidates = [{"answer": text, "prompt": "Q", "continuation": f" {text}"} for text in texts]
    return {"id": "f:0", "task": task, "reference": texts[right], "candidates": candidates}


def make_output(sums, tokens):
    return [ScoredCandidate(*pair) for pair in zip(sums, tokens, strict=True)]


# Each rule takes another candidate: sum, per character, per byte, per token.
TEXTS = ["no", "well it is a", "ééééééééé", "of course"]
SUMS = [-3.0, -9.5, -8.0, -8.5]
TOKENS = [1, 4, 3, 5]


def test_every_rule_is_that_of_the_harness():
    record = make_record(TEXTS, 0)
    judged = ChoiceLikelihood.judge(make_output(SUMS, TOKENS), record)
    # `process_results` of lm-evaluation-harness 0.4.13, for multiple_choice.
    lls = np.array(SUMS)
    characters = np.array([float(len(text)) for text in TEXTS])
    utf8_bytes = np.array([float(len(text.encode("utf-8"))) for text in TEXTS])
    expected = {
        "": np.argmax(lls),
        "_norm": np.argmax(lls / characters),
        "_per_byte": np.argmax(lls / utf8_bytes),
        "_per_token": np.argmax(lls / np.array(TOKENS)),
    }
    assert len({int(index) for index in expected.values()}) == 4
    for rule, index in expected.items():
        assert judged[f"extracted{rule}"] == TEXTS[index]
        assert judged[f"correct{rule}"] == (index == 0)
    assert judged["output"] == "no"
    assert judged["log_likelihoods"] == SUMS
    assert judged["num_tokens"] == TOKENS


def test_first_of_equals_is_chosen_and_none_that_is_not_finite():
    record = make_record(["a", "b"], 0)
    assert ChoiceLikelihood.judge(make_output([-1.0, -1.0], [1, 1]), record)["correct"]
    for broken in (float("nan"), float("-inf")):
        judged = ChoiceLikelihood.judge(make_output([-1.0, broken], [1, 1]), record)
        assert judged["extracted"] is None
        assert judged["correct"] is False


def test_broken_records_are_named():
    with pytest.raises(UserError, match=r"f:0: reference 'x' is not among .*\['a', 'b'\]"):
        ChoiceLikelihood.judge(
            make_output([-1.0, -2.0], [1, 1]), make_record(["a", "b"], 0) | {"reference": "x"}
        )
    with pytest.raises(UserError, match="f:0: the continuation of a candidate is empty"):
        ChoiceLikelihood.judge(make_output([-1.0, 0.0], [1, 0]), make_record(["a", "b"], 0))
    with pytest.raises(UserError, match=r"f:0: no labels to choose from.*ChoiceLikelihood"):
        ChoiceAccuracy.judge("a", make_record(["a"], 0) | {"choices": None})


def test_only_this_metric_scores_candidates():
    assert isinstance(ChoiceLikelihood(), LikelihoodMetric)
    assert not isinstance(ChoiceAccuracy(), LikelihoodMetric)


# The rules choose the candidates 0, 1, 2 and 3.
RECORDS = [make_record(TEXTS, *pair) for pair in [(0, "x"), (1, "x"), (3, "y"), (2, "y"), (0, "y")]]
OUTPUTS = [make_output(SUMS, TOKENS)] * 5
EXPECTED = {
    "accuracy": 2 / 5,
    "accuracy_norm": 1 / 5,
    "accuracy_per_byte": 1 / 5,
    "accuracy_per_token": 1 / 5,
    "accuracy_average": (1 / 2 + 1 / 3) / 2,
    "accuracy_norm_average": 1 / 4,
    "accuracy/x": 1 / 2,
    "accuracy/y": 1 / 3,
    "accuracy_norm/x": 1 / 2,
    "accuracy_norm/y": 0,
    "accuracy_per_byte/x": 0,
    "accuracy_per_byte/y": 1 / 3,
    "accuracy_per_token/x": 0,
    "accuracy_per_token/y": 1 / 3,
}


def scores_of(metric):
    return {name: value.item() for name, value in metric.compute().items()}


def test_scores_by_counting():
    metric = ChoiceLikelihood()
    metric.update(OUTPUTS[:2], RECORDS[:2])
    metric.update([], [])
    metric.update(OUTPUTS[2:], RECORDS[2:])
    assert scores_of(metric) == pytest.approx(EXPECTED)
    assert set(metric.names()) <= EXPECTED.keys()
    metric.reset()
    assert metric.compute() == {}


def _one_of_two(rank, folder):
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    metric = ChoiceLikelihood()
    part = slice(0, 1) if rank == 0 else slice(1, 5)
    metric.update(OUTPUTS[part], RECORDS[part])
    torch.save(scores_of(metric), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_score_as_one(tmp_path):
    assert forks.call(_one_of_two, (0, tmp_path), (1, tmp_path)) == [0, 0]
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt") == pytest.approx(EXPECTED)
