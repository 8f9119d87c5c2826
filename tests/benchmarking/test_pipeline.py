"""The comparison with the Hugging Face Trainer baseline: same examples, ratios within a round."""

import json
from pathlib import Path

import pytest

from tera_pl.__main__ import main
from tera_pl.benchmarking import hf_trainer, pipeline
from tera_pl.errors import RunStoppedError
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

CONFIG = ROOT / "configs" / "quickstart.yaml"


def test_ratios_are_medians_of_those_within_a_round():
    def measured(speed, memory):
        return {"tokens_per_second": speed, "peak_memory_bytes": memory, "train_tokens": 1234}

    rounds = [
        {"hf_trainer": measured(1, 10), "ours": measured(3, 5)},
        {"hf_trainer": measured(2, 10), "ours": measured(4, 20)},
        {"hf_trainer": measured(4, 10), "ours": measured(20, 7)},
    ]
    lines = pipeline.as_table(rounds).splitlines()
    assert lines[2] == "| hf_trainer | 1.00 | 1.00 | 1.00 | 1.00 | 1,234 |"
    assert lines[3] == "| ours | 3.00 | 2.00 | 5.00 | 0.70 | 1,234 |"


def test_both_train_on_the_same_tokens(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    small = [
        "--trainer.max_steps=2",
        "--trainer.val_check_interval=2",
        "--trainer.limit_val_batches=1",
        "--trainer.num_sanity_val_steps=0",
        "--data.init_args.batch_size=4",
        "--data.init_args.num_train=128",  # 120 for validation: an epoch has 2 batches
        "--model.init_args.schedule.warmup_steps=1",
    ]
    arguments = ["--config", str(CONFIG), "--hf_trainer", str(CONFIG), "--rounds", "1"]
    assert main(["benchmark", "pipeline", *arguments, "--output", str(tmp_path), *small]) == 0
    report = json.loads((tmp_path / "pipeline.json").read_text())
    (found,) = report["rounds"]
    assert set(found) == {"hf_trainer", "quickstart"}
    assert all(set(pipeline.MEASURED) <= set(run) for run in found.values())
    assert found["hf_trainer"]["train_tokens"] == found["quickstart"]["train_tokens"]
    assert report["overrides"] == small
    assert "| quickstart | " in (tmp_path / "pipeline.md").read_text()
    progress = [line for line in capsys.readouterr().err.splitlines() if "tokens/s" in line]
    assert [line.split(":")[0] for line in progress] == [
        "1/2 round 1, hf_trainer",
        "2/2 round 1, quickstart",
    ]
    assert progress[-1].endswith("about 0 s left")


def test_an_unknown_key_of_a_configuration_is_one_line(capsys):
    arguments = ["--config", str(CONFIG), "--trainer.max_stops=2"]
    with pytest.raises(SystemExit, match="2"):
        hf_trainer.main(arguments)
    (line,) = capsys.readouterr().err.splitlines()
    assert "max_stops" in line


def test_tokens_per_batch_is_refused():
    with pytest.raises(ValueError, match=r"tokens_per_batch.*expected null"):
        hf_trainer.main(["--config", str(CONFIG), "--data.init_args.tokens_per_batch=512"])


def test_a_failed_run_is_reported(tmp_path):
    with pytest.raises(RunStoppedError, match=r"hf_trainer --config none.yaml failed"):
        pipeline.compare([Path("none.yaml")], Path("none.yaml"), [], 1, tmp_path / "out")


def test_two_configurations_of_one_name_are_refused(tmp_path, capsys):
    configs = [str(tmp_path / folder / "tera.yaml") for folder in ("a", "b")]
    arguments = ["--config", *configs, "--hf_trainer", configs[0], "--output", str(tmp_path / "c")]
    assert main(["benchmark", "pipeline", *arguments]) == 2
    assert "--config: two rows of the table would be 'tera'" in capsys.readouterr().err
