"""lm-evaluation-harness gives the answers and the accuracy of the run, by the page's task file."""

import json

import datasets
import pytest
import yaml

from tera_pl import cli
from tera_pl.__main__ import main
from tests.conftest import code_blocks

# Not a dependency: `pip install lm-eval==0.4.13`.
lm_eval = pytest.importorskip("lm_eval")
pytestmark = pytest.mark.slow

RUN = "runs/run/version_0"


def write_task(folder):
    """Write the task of the page for this run, whose answers are shorter."""
    block = code_blocks("docs/lm_evaluation_harness.md", "yaml")[0]
    task = yaml.safe_load(block["text"].replace("runs/quickstart/version_0", RUN))
    task["generation_kwargs"]["max_gen_toks"] = 3
    folder.mkdir()
    (folder / "run_predictions.yaml").write_text(yaml.safe_dump(task))


def evaluate(**model):
    """Accuracy and answers, by prompt, of the harness."""
    found = lm_eval.simple_evaluate(
        model="hf",
        model_args={"dtype": "float32", **model},
        tasks=["run_predictions"],
        task_manager=lm_eval.tasks.TaskManager(include_path="tasks", include_defaults=False),
        device="cpu",
        batch_size=4,
        bootstrap_iters=0,
    )
    answers = {
        sample["doc"]["prompt"]: sample["resps"][0][0].strip()
        for sample in found["samples"]["run_predictions"]
    }
    return found["results"]["run_predictions"]["exact_match,extracted"], answers


def test_answers_and_accuracy_are_those_of_the_run(
    tiny_config, tiny_backbone, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    content = yaml.safe_load(tiny_config.read_text())
    # Far enough to change answers.
    content["trainer"]["max_steps"] = 40
    tiny_config.write_text(yaml.safe_dump(content))
    assert cli.main(["fit", "--config", str(tiny_config)]) == 0
    checkpoint = f"{RUN}/checkpoints/best.ckpt"
    assert cli.main(["test", "--config", str(tiny_config), "--ckpt_path", checkpoint]) == 0
    export = ["export", "--ckpt_path", checkpoint, "--output"]
    assert main([*export, "merged", "--merge"]) == 0
    assert main([*export, "lora", "--as", "lora", "--rank", "24"]) == 0
    lines = (tmp_path / RUN / "predictions.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    expected = {record["prompt"]: record["output"].strip() for record in records}
    scores = json.loads((tmp_path / RUN / "results.json").read_text())["test"]["scores"]
    write_task(tmp_path / "tasks")
    base = str(tiny_backbone)
    for model in (
        {"pretrained": "merged"},
        {"pretrained": base, "peft": f"{RUN}/adapter"},
        {"pretrained": base, "peft": "lora"},
    ):
        accuracy, answers = evaluate(**model)
        assert answers == expected
        assert accuracy == pytest.approx(scores["test/accuracy"])
    assert evaluate(pretrained=base)[1] != expected
