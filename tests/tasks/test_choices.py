"""A run that chooses by likelihood: every log-likelihood in its predictions, and its scores."""

import json

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from tera_pl.cli import main
from tests.conftest import tiny_settings

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def settings(tiny_backbone, tiny_commonsense):
    given = tiny_settings(str(tiny_backbone), str(tiny_commonsense))
    model, data = given["model"]["init_args"], given["data"]["init_args"]
    model["metric"] = {"class_path": "tera_pl.metrics.ChoiceLikelihood"}
    # A prompt that the model has no positions for, if an answer were generated.
    model["generation"] = {"max_new_tokens": 200}
    data |= {"form": "cloze", "eval_batch_size": 5, "tasks": ["openbookqa", "ARC-Easy"]}
    data["encoding"] = {"template": "{instruction}", "tokenize": "joint"}
    given["trainer"] |= {"max_steps": 2}
    given["checkpoint"] = {"monitor": "val/accuracy_norm", "mode": "max"}
    return given


def write(folder, settings, **changes):
    path = folder / "config.yaml"
    settings["model"]["init_args"]["backbone"] |= changes
    path.write_text(yaml.safe_dump(settings))
    return str(path)


@pytest.mark.parametrize("attention", ["packed_sdpa", "sdpa"])
def test_likelihoods_are_those_of_the_base(
    attention, settings, tiny_backbone, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    # TeRA starts as the base model.
    config = write(tmp_path, settings, attn_implementation=attention)
    assert main(["test", "--config", config]) == 0
    run = tmp_path / "runs" / "run" / "version_0"
    predictions = [json.loads(line) for line in (run / "predictions.jsonl").open()]
    assert len(predictions) == 24
    tokenizer = AutoTokenizer.from_pretrained(tiny_backbone)
    model = AutoModelForCausalLM.from_pretrained(tiny_backbone).eval()
    right = dict.fromkeys(["openbookqa", "ARC-Easy"], 0)
    for prediction in predictions:
        assert prediction["candidates"] == ["blue", "green", "red"]
        task, number = prediction["task"], prediction["id"].split(":")[1]
        prompt = f"What color is the {task} test {number}?"
        if task == "ARC-Easy":
            prompt = f"Question: {prompt}\nAnswer:"
        assert prediction["prompt"] == prompt
        ids = [tokenizer.bos_token_id, *tokenizer(prompt)["input_ids"]]
        with torch.no_grad():
            logs = torch.log_softmax(model(torch.tensor([ids])).logits[0, -1], -1)
        expected = logs[tokenizer.convert_tokens_to_ids(prediction["candidates"])]
        found = torch.tensor(prediction["log_likelihoods"])
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        best = prediction["candidates"][int(expected.argmax())]
        assert prediction["output"] == prediction["extracted"] == best
        assert prediction["correct"] == (best == prediction["reference"])
        right[task] += prediction["correct"]
    scores = json.loads((run / "results.json").read_text())["test"]["scores"]
    assert scores["test/accuracy"] == sum(right.values()) / 24
    for task, number in right.items():
        assert scores[f"test/accuracy/{task}"] == number / 12


def test_the_best_checkpoint_can_be_selected_by_it(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = write(tmp_path, settings)
    assert main(["fit", "--config", config]) == 0
    run = tmp_path / "runs" / "run" / "version_0"
    results = json.loads((run / "results.json").read_text())
    assert results["fit"]["checkpoint"]["monitor"] == "val/accuracy_norm"
    assert results["fit"]["checkpoint"]["best_score"] == max(
        results["fit"]["checkpoint"]["best_score"], results["fit"]["scores"]["val/accuracy_norm"]
    )
    assert (run / "checkpoints" / "best.ckpt").exists()
    assert main(["predict", "--config", config]) == 0
    chosen = [json.loads(line)["output"] for line in next(run.parent.glob("version_1/p*")).open()]
    assert len(chosen) == 24
    assert set(chosen) <= {"blue", "green", "red"}


def test_metric_and_data_that_do_not_go_together(settings, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = write(tmp_path, settings)
    assert main(["test", "--config", config, "--data.init_args.form", "labels"]) == 2
    assert "Commonsense170k have no candidates, whose likelihoods" in capsys.readouterr().err
    choice = "--model.init_args.metric=tera_pl.metrics.ChoiceAccuracy"
    more = ["--model.init_args.generation.max_new_tokens=2", "--checkpoint.monitor=val/accuracy"]
    assert main(["test", "--config", config, choice, *more]) == 2
    assert "no labels to choose from, which ChoiceAccuracy" in capsys.readouterr().err
