"""Each benchmark on a real Llama and real files, from YAML to every field of results.json."""

import json
import pkgutil

import pytest
from transformers import AutoTokenizer

from datamodules.encoding import Encoding
from datamodules.tokenization import encode
from tera_pl.cli import main
from tests.config.composition import compose
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

SCORES = {
    "cloze_stories260k": ["accuracy", "accuracy_norm", "accuracy_norm/openbookqa"],
    "stories260k": ["accuracy", "accuracy_strict", "accuracy_average", "extracted"],
    "math10k_stories260k": ["accuracy", "accuracy_strict", "accuracy/AQuA", "accuracy/SVAMP"],
    "convai2_stories260k": ["bleu", "rouge_l"],
}
DATA = {
    "cloze_stories260k": "commonsense",
    "stories260k": "commonsense",
    "math10k_stories260k": "math",
    "convai2_stories260k": "convai2",
}
SHORT = {
    "trainer.max_steps": 4,
    "trainer.val_check_interval": 4,
    "trainer.limit_val_batches": 2,
    "trainer.limit_test_batches": 3,
    "trainer.enable_progress_bar": "false",
    "data.init_args.eval_batch_size": 8,
    "data.init_args.batch_size": 2,
    "model.init_args.generation.max_new_tokens": 12,
}


@pytest.mark.parametrize("name", SCORES)
def test_from_fit_to_results(name, shared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("nltk.download", lambda *args, **kwargs: False)
    arguments = ["--config", str(ROOT / "configs" / "examples" / f"{name}.yaml")]
    arguments += [f"--model.init_args.backbone.path={shared / 'models' / 'stories260K' / 'hf'}"]
    arguments += [f"--data.init_args.path={shared / 'data' / DATA[name]}"]
    arguments += [f"--{key}={value}" for key, value in SHORT.items()]
    assert main(["fit", *arguments]) == 0
    run = tmp_path / "runs" / name / "version_0"
    best = str(run / "checkpoints" / "best.ckpt")
    assert main(["test", *arguments, "--ckpt_path", best]) == 0

    results = json.loads((run / "results.json").read_text())
    for score in SCORES[name]:
        assert f"test/{score}" in results["test"]["scores"]
    protocol = results["settings"]["protocol"]
    expected = {"name", "encoding", "split", "generation", "metric", "selection"}
    assert protocol.keys() - {"form"} == expected
    assert protocol.get("form") == ("cloze" if name.startswith("cloze") else None)
    assert protocol["split"]["size"] == 120
    assert protocol["selection"]["monitor"] in results["fit"]["scores"]
    statistics = results["settings"]["data"]["statistics"]
    assert statistics["test"]["examples"] > 1_000
    assert {"seconds", "checkpoint", "step"} <= results["test"].keys()
    if name.startswith("convai2"):
        # What cannot be downloaded here is told, and no number stands in for it.
        missing = results["test"].get("missing_scores", {})
        for score in ("bertscore_f1", "meteor"):
            assert (score in missing) != (f"test/{score}" in results["test"]["scores"])
    predictions = [json.loads(line) for line in (run / "predictions.jsonl").open()]
    assert len(predictions) == 24
    assert all({"id", "task", "prompt", "output", "reference"} <= p.keys() for p in predictions)


@pytest.mark.parametrize(
    ("benchmark", "folder"),
    [("convai2", "convai2"), ("math10k", "math"), ("commonsense170k", "commonsense")],
)
def test_nothing_is_cut_for_smollm2(benchmark, folder, shared, smollm2):
    """Of the longest texts: to tokenize all takes a minute."""
    config = ROOT / "configs" / benchmark / "smollm2_135m" / "tera.yaml"
    settings = compose(config)["data"]
    given = settings["init_args"] | {"path": str(shared / "data" / folder)}
    encoding = Encoding(**given.pop("encoding"))
    data = pkgutil.resolve_name(settings["class_path"])(str(smollm2), **given)
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    for records in (data.train_records(), data.test_records()):
        longest = sorted(records, key=lambda record: len(record["prompt"] + record["response"]))
        rows = encode(longest[-100:], tokenizer, encoding)
        for cut in ("num_response_cut", "num_prompt_cut", "num_eval_prompt_cut"):
            assert not any(rows[cut])
