"""Likelihoods and choices are those of lm-evaluation-harness, on its own task files."""

import json
import re
from pathlib import Path

import datasets
import pytest
import yaml

from tera_pl.cli import main
from tests.conftest import ROOT

# Not a dependency: `pip install lm-eval==0.4.13`.
lm_eval = pytest.importorskip("lm_eval")
pytestmark = pytest.mark.slow

# By model, how many of each task: the first of its file that fit the positions of stories260k.
ITEMS = {"stories260k": 200, "smollm2_135m": 35}
LONGEST = 600  # characters of question and options
EXAMPLE = ROOT / "configs" / "examples" / "cloze_stories260k.yaml"
QUESTION = r".*? question: (.*)\n\nAnswer1: (.*)\n\nAnswer format: .*"
# Records of LLM-Adapters into the fields of the harness's data sets.
PATTERNS = {
    "ARC-Easy": QUESTION,
    "ARC-Challenge": QUESTION,
    "openbookqa": QUESTION,
    "piqa": r".*? question: (.*)\n\nSolution1: (.*)\n\nSolution2: (.*)\n\nAnswer format: .*",
    "winogrande": r".*? sentence: (.*)\n\nOption1: (.*) Option2: (.*) Answer format: .*",
    "boolq": r".*? question: (.*)\?\n\nAnswer format: .*",
}
FILES = {
    "ARC-Easy": "arc/arc_easy.yaml",
    "ARC-Challenge": "arc/arc_challenge.yaml",
    "openbookqa": "openbookqa/openbookqa.yaml",
    "piqa": "piqa/piqa.yaml",
    "winogrande": "winogrande/default.yaml",
    "boolq": "super_glue/boolq/default.yaml",
}


def as_document(task, item):
    parts = re.fullmatch(PATTERNS[task], item["instruction"], re.DOTALL).groups()
    number = item["answer"][-1]
    if task == "boolq":
        return {"question": parts[0], "label": int(item["answer"] == "true")}
    if task == "piqa":
        return {"goal": parts[0], "sol1": parts[1], "sol2": parts[2], "label": int(number) - 1}
    if task == "winogrande":
        names = ("sentence", "option1", "option2")
        return dict(zip(names, parts, strict=True)) | {"answer": number}
    texts = re.split(r" Answer\d: ", parts[1])
    choices = {"text": texts, "label": [str(1 + i) for i in range(len(texts))]}
    name = "question_stem" if task == "openbookqa" else "question"
    return {name: parts[0], "choices": choices, "answerKey": number}


def write_data(shared, folder, number):
    """Write the first records of each test file, for us and for the harness."""
    (folder / "tasks").mkdir()
    for task, file in FILES.items():
        (folder / task).mkdir()
        items = json.loads((shared / "data" / "commonsense" / task / "test.json").read_text())
        items = [item for item in items if len(item["instruction"]) <= LONGEST][:number]
        (folder / task / "test.json").write_text(json.dumps(items))
        lines = [json.dumps(as_document(task, item)) + "\n" for item in items]
        (folder / f"{task}.jsonl").write_text("".join(lines))
        settings = {
            "include": str(Path(lm_eval.__file__).parent / "tasks" / file),
            "task": f"local_{task}",
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": {"test": str(folder / f"{task}.jsonl")}},
            "training_split": None,
            "validation_split": None,
            "test_split": "test",
        }
        if task == "boolq":  # these files have no passage
            settings["doc_to_text"] = "Question: {{question}}?\nAnswer:"
        (folder / "tasks" / f"{task}.yaml").write_text(yaml.safe_dump(settings))


@pytest.fixture(params=ITEMS)
def model(request, shared):
    """Folder of a model, and what its tokenizer asks of the protocol."""
    if request.param == "stories260k":
        return request.param, str(shared / "models" / "stories260K" / "hf"), []
    # The harness puts BOS where the tokenizer does.
    keys = ("add_bos=false", "eval_add_bos=false", "pad_token=null")
    folder = str(request.getfixturevalue("smollm2"))
    return request.param, folder, [f"--data.init_args.encoding.{key}" for key in keys]


def test_likelihoods_and_choices_are_equal(model, shared, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    name, base, arguments = model
    write_data(shared, tmp_path, ITEMS[name])
    arguments += [f"--model.init_args.backbone.path={base}", f"--data.init_args.path={tmp_path}"]
    arguments.append("--data.init_args.eval_batch_size=8")
    arguments.append(f"--data.init_args.tasks={json.dumps(list(FILES))}")
    # TeRA starts as the base model.
    assert main(["test", "--config", str(EXAMPLE), *arguments]) == 0
    run = tmp_path / "runs" / "cloze_stories260k" / "version_0"
    predictions = {p["id"]: p for p in map(json.loads, (run / "predictions.jsonl").open())}
    assert len(predictions) == ITEMS[name] * len(FILES)
    scores = json.loads((run / "results.json").read_text())["test"]["scores"]
    found = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": base, "dtype": "float32"},
        tasks=[f"local_{task}" for task in FILES],
        task_manager=lm_eval.tasks.TaskManager(include_path="tasks", include_defaults=False),
        device="cpu",
        batch_size=8,
        bootstrap_iters=0,
    )
    for task in FILES:
        largest, number = 0.0, 0
        for sample in found["samples"][f"local_{task}"]:
            prediction = predictions[f"{task}/test.json:{sample['doc_id']}"]
            theirs = [response[0][0] for response in sample["resps"]]
            ours = prediction["log_likelihoods"]
            assert len(ours) == len(theirs)
            largest = max([largest, *(abs(a - b) for a, b in zip(ours, theirs, strict=True))])
            number += len(ours)
            assert prediction["correct"] == sample["acc"]
            if "acc_norm" in sample:
                assert prediction["correct_norm"] == sample["acc_norm"]
        theirs = found["results"][f"local_{task}"]
        assert scores[f"test/accuracy/{task}"] == pytest.approx(theirs["acc,none"])
        with capsys.disabled():
            print(  # noqa: T201 - the row of docs/protocols.md
                f"\n{name}, {task}: {number} candidates, accuracy {theirs['acc,none']}, "
                f"{theirs.get('acc_norm,none')}, largest difference {largest:.1e}"
            )
        assert largest < 5e-4
