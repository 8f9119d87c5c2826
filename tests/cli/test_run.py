"""A run from the command line: every artifact, every error, on a tiny model and tiny files."""

import csv
import json
import math
import re
import shutil

import numpy as np
import peft
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams import metadata
from transformers import AutoModelForCausalLM

from tera_pl.cli import main
from tera_pl.tasks import CausalLMTask

pytestmark = pytest.mark.slow


def test_folder_holds_what_the_design_lists(finished):
    names = {path.relative_to(finished).as_posix() for path in finished.rglob("*")}
    assert {
        "config.yaml",
        "config_test.yaml",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "results.json",
        "losses_fit.csv",
        "losses_test.csv",
        "predictions.jsonl",
        "ranks.csv",
    } <= names
    assert "peft_comparison.json" not in names  # written where a user asks for it
    assert not (finished.parent / "version_1").exists()


def test_results_hold_scores_settings_and_counts(finished):
    results = json.loads((finished / "results.json").read_text())
    assert {"test/loss", "test/accuracy", "test/accuracy/ARC-Easy"} <= results["test"][
        "scores"
    ].keys()
    assert {"train/loss", "val/loss", "val/accuracy"} <= results["fit"]["scores"].keys()
    # q_proj is 24 x 24 and v_proj 12 x 24: (4 + 6 + 24) + (3 + 4 + 24) parameters, two layers.
    assert results["fit"]["resources"]["trained"] == 2 * (34 + 31)
    assert results["fit"]["resources"]["stored_bytes"] == 4 * 2 * (34 + 31)
    assert results["fit"]["resources"]["tokens_per_second"] > 0
    assert results["settings"]["adapter"]["seed"] == 0
    assert len(results["settings"]["adapter"]["frozen_sha256"]) == 64
    assert results["environment"]["seed_everything"] == "1"


def test_test_accuracy_equals_the_written_predictions(finished):
    lines = (finished / "predictions.jsonl").read_text().splitlines()
    predictions = [json.loads(line) for line in lines]
    assert len(predictions) == 24
    assert {"id", "task", "prompt", "output", "extracted", "reference", "correct"} <= predictions[
        0
    ].keys()
    results = json.loads((finished / "results.json").read_text())
    accuracy = sum(p["correct"] for p in predictions) / len(predictions)
    assert results["test"]["scores"]["test/accuracy"] == pytest.approx(accuracy)


def test_losses_of_records_give_the_scores(finished):
    results = json.loads((finished / "results.json").read_text())
    predictions = [json.loads(line) for line in (finished / "predictions.jsonl").open()]
    for stage, split in (("test", "test"), ("fit", "val")):
        with (finished / f"losses_{stage}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        if stage == "test":
            assert [row["id"] for row in rows] == sorted(p["id"] for p in predictions)
        nll = np.array([float(row["nll"]) for row in rows])
        tokens = np.array([int(row["tokens"]) for row in rows])
        scores = results[stage]["scores"]
        loss = nll.sum() / tokens.sum()
        # The jackknife over records: another estimate of the same variance.
        left = (nll.sum() - nll) / (tokens.sum() - tokens)
        se = math.sqrt((len(left) - 1) / len(left) * ((left - left.mean()) ** 2).sum())
        assert scores[f"{split}/loss"] == pytest.approx(loss, rel=1e-6)
        assert scores[f"{split}/loss_se"] == pytest.approx(se, rel=0.01)
        assert scores[f"{split}/perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)
        assert scores[f"{split}/perplexity_se"] == pytest.approx(math.exp(loss) * se, rel=0.01)


def test_tensorboard_has_scalars_figure_and_text(finished):
    events = EventAccumulator(str(finished))
    events.Reload()
    scalars = set(events.Tags()["scalars"])
    assert {"train/loss", "val/loss", "val/accuracy", "test/accuracy"} <= scalars
    assert any(tag.startswith("lr") for tag in scalars)
    assert {"ranks/q_proj/rank", "ranks/v_proj/stable_rank"} <= scalars
    assert "ranks/per_layer" in events.Tags()["images"]
    assert any("val/predictions" in tag for tag in events.Tags()["tensors"])


def test_tensorboard_shows_runs_beside_each_other(finished):
    events = EventAccumulator(str(finished), size_guidance={"histograms": 0})
    events.Reload()
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    settings = metadata.parse_session_start_info_plugin_data(content).hparams
    # TensorBoard sorts them like this, and shows five.
    assert sorted(settings)[:4] == ["Backbone", "Learning rate", "Method", "Seed"]
    assert settings["Method"].string_value == "TeraConfig"
    assert settings["optimizer.lr"].number_value == 0.1
    assert settings["adapter.peft_type"].string_value == "TERA"
    content = events.SummaryMetadata("_hparams_/experiment").plugin_data.content
    infos = metadata.parse_experiment_plugin_data(content).metric_infos
    names = {info.name.tag for info in infos}
    # Columns are curves of the run, not points of their own.
    assert {"val/accuracy", "test/accuracy", "resources/trained"} <= names
    assert names <= set(events.Tags()["scalars"])
    layout = Layout.FromString(
        events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    )
    charts = [chart for category in layout.category for chart in category.chart]
    assert len(charts) == 2 + 2 * 2  # loss and score; two kinds of ranks of two modules
    for chart in charts:
        assert any(
            re.search(pattern, tag)
            for pattern in chart.multiline.tag
            for tag in events.Tags()["scalars"]
        ), chart.title
    # v_proj is 12 x 24, out in modes 3 and 4: three vectors, two layers together, two validations.
    for number, size in ((1, 3), (2, 4), (3, 24)):
        points = events.Histograms(f"vectors/v_proj/{number}")
        assert [point.step for point in points] == [4, 8]
        assert all(point.histogram_value.num == 2 * size for point in points)


def test_ranks_have_a_row_per_layer(finished):
    with (finished / "ranks.csv").open() as file:
        rows = list(csv.DictReader(file))
    layers = [(row["layer"], row["module"]) for row in rows]
    assert {row["step"] for row in rows} == {"4", "8"}
    assert (
        layers[:4]
        == layers[4:]
        == [
            (f"model.layers.{layer}.self_attn", module)
            for layer in range(2)
            for module in ("q_proj", "v_proj")
        ]
    )
    assert {"rank", "tolerance", "stable_rank", "entropy_rank"} <= rows[0].keys()
    assert 0 < int(rows[0]["rank"]) <= 24


def test_checkpoint_holds_trained_tensors_only(finished):
    checkpoint = torch.load(finished / "checkpoints" / "best.ckpt", weights_only=True)
    assert sum(t.numel() for t in checkpoint["state_dict"].values()) == 2 * (34 + 31)
    assert all("tera_" in name for name in checkpoint["state_dict"])


def test_adapter_folder_loads_with_plain_peft(finished, tiny_backbone):
    base = AutoModelForCausalLM.from_pretrained(tiny_backbone)
    model = peft.PeftModel.from_pretrained(base, finished / "adapter")
    checkpoint = torch.load(finished / "checkpoints" / "best.ckpt", weights_only=True)
    state = dict(model.named_parameters())
    for name, value in checkpoint["state_dict"].items():
        assert torch.equal(state[name.removeprefix("model.")], value)


def test_second_fit_makes_a_new_version(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quick = ["--trainer.max_steps", "1", "--trainer.val_check_interval", "1"]
    quick += ["--trainer.limit_val_batches", "1"]
    assert main(["fit", "--config", str(config), *quick]) == 0
    assert main(["fit", "--config", str(config), *quick]) == 0
    assert (tmp_path / "runs" / "tiny" / "version_1" / "checkpoints" / "best.ckpt").exists()


def test_added_callback_does_not_drop_the_standard_ones(config, tmp_path, monkeypatch, capsys):
    extra = tmp_path / "extra.yaml"
    extra.write_text(
        "trainer:\n  callbacks:\n    - class_path: lightning.pytorch.callbacks.RichModelSummary\n"
    )
    monkeypatch.chdir(tmp_path)
    quick = ["--trainer.max_steps", "1", "--trainer.val_check_interval", "1"]
    quick += ["--trainer.limit_val_batches", "1"]
    assert main(["fit", "--config", str(config), "--config", str(extra), *quick]) == 0
    run = tmp_path / "runs" / "tiny" / "version_0"
    assert (run / "ranks.csv").exists()
    assert (run / "checkpoints" / "best.ckpt").exists()
    assert "RichModelSummary" in (run / "config.yaml").read_text()


def test_interrupted_run_resumes_to_the_same_bits(config, finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Every checkpoint of an uninterrupted run; then resume from the one at step 4.
    every = ["--checkpoint.save_top_k", "-1", "--checkpoint.filename", "step{step}"]
    assert main(["fit", "--config", str(config), *every]) == 0
    runs = tmp_path / "runs" / "tiny"
    shutil.copytree(runs / "version_0", runs / "version_1")
    (runs / "version_1" / "checkpoints" / "last.ckpt").unlink()
    checkpoint = str(runs / "version_1" / "checkpoints" / "step4.ckpt")
    assert main(["fit", "--config", str(config), *every, "--ckpt_path", checkpoint]) == 0
    uninterrupted = torch.load(runs / "version_0" / "checkpoints" / "last.ckpt", weights_only=True)
    resumed = torch.load(runs / "version_1" / "checkpoints" / "last.ckpt", weights_only=True)
    assert uninterrupted["global_step"] == resumed["global_step"] == 8
    for name, value in uninterrupted["state_dict"].items():
        assert torch.equal(resumed["state_dict"][name], value)


def test_print_config_never_touches_weights(config, tmp_path, capsys):
    text = yaml.safe_load(config.read_text())
    text["model"]["init_args"]["backbone"]["path"] = str(tmp_path / "nowhere")
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump(text))
    with pytest.raises(SystemExit) as error:
        main(["fit", "--config", str(other), "--print_config"])
    assert error.value.code == 0
    assert "nowhere" in capsys.readouterr().out


def test_loss_that_is_not_finite_stops_the_run_or_is_skipped(config, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    original, calls = CausalLMTask.compute_loss, []

    def loss(task, batch):
        found, number = original(task, batch)
        calls.append(task.training)
        return (found * float("nan") if sum(calls) == 3 else found), number

    monkeypatch.setattr(CausalLMTask, "compute_loss", loss)
    assert main(["fit", "--config", str(config)]) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    # The records of the batch, by file and number.
    ids = r"(\S+/train.json:\d+, ){3}\S+/train.json:\d+"
    assert re.match(rf"stopped: the loss is nan at step 2 on {ids}; no checkpoint was saved", line)
    calls.clear()
    skip = "--model.init_args.skip_nonfinite_loss=true"
    with pytest.warns(UserWarning, match="the loss is nan at step 2 on .*: batch skipped"):
        assert main(["fit", "--config", str(config), skip]) == 0
