"""What a person sees of a run: a header, scores, the next command; no banners of libraries."""

import re

import pytest
import yaml

from tera_pl.__main__ import main as command
from tera_pl.cli import main

pytestmark = pytest.mark.slow
# Of Lightning 2.6: each was printed by every run.
BANNERS = (
    "Tip",
    "litlogger",
    "litmodels",
    "GPU available",
    "TPU available",
    "Seed set to",
    "Modules in",
    "FLOPs",
    "max_steps=",
    "Loading weights",
    "overridden",
    "DataLoader 0",
)


@pytest.fixture
def run(tiny_config, tmp_path, monkeypatch, capfd):
    """Run a subcommand with progress lines on; its output on stdout and stderr."""
    settings = yaml.safe_load(tiny_config.read_text())
    for key in ("enable_progress_bar", "enable_model_summary"):
        del settings["trainer"][key]
    tiny_config.write_text(yaml.safe_dump(settings))
    monkeypatch.chdir(tmp_path)

    def call(subcommand, *options):
        capfd.readouterr()
        assert main([subcommand, "--config", str(tiny_config), *options]) == 0
        return capfd.readouterr()

    return call


def test_a_log_has_lines_and_no_banners(run, tmp_path):
    out, err = run("fit")
    lines = out.splitlines()
    heads = [line.split()[0] for line in lines[:5]]
    assert heads == ["model", "method", "data", "training", "logs"]
    assert "TeraConfig on q_proj, v_proj: 130 trainable parameters" in lines[1]
    assert re.match(r"data +Commonsense170k: train \d+, val \d+ examples$", lines[2])
    assert lines[4].split() == ["logs", "runs/run/version_0", "(TensorBoard)"]
    validations = [line for line in lines if "val/loss" in line and line.startswith("step")]
    assert [line.split()[1] for line in validations] == ["2/8", "4/8", "6/8", "8/8"]
    best = "runs/run/version_0/checkpoints/best.ckpt"
    assert lines[-1].split(maxsplit=1) == [
        "next",
        f"python -m tera_pl test --config runs/run/version_0/config.yaml --ckpt_path {best}",
    ]
    out_of_test, err_of_test = run("test", "--ckpt_path", best)
    for text in (out, err, out_of_test, err_of_test):
        assert [banner for banner in BANNERS if banner in text] == []
        assert "\r" not in text
        assert "\x1b" not in text
    # Scores are printed once, rounded.
    scores = re.findall(r"^test/accuracy +(\S+)$", out_of_test, re.MULTILINE)
    assert len(scores) == 1
    assert len(scores[0]) <= 6
    assert f"export --ckpt_path {best}" in out_of_test
    # The command that is printed is one that works.
    assert command(lines[-1].split()[4:]) == 0


def test_quiet_prints_scores_only(run):
    out, err = run("fit", "--quiet")
    assert (out, err) == ("", "")
    out, err = run("test", "--quiet")
    assert err == ""
    assert all(line.startswith("test/") for line in out.splitlines())
    assert "test/loss" in out


@pytest.mark.parametrize("subcommand", ["fit", "test"])
def test_help_names_what_fits_and_how_to_see_more(subcommand, capsys):
    with pytest.raises(SystemExit):
        main([subcommand, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert text.startswith(f"usage: python -m tera_pl {subcommand} --config X.yaml")
    assert "--model.help CLASS, --data.help CLASS" in text
    assert "tera_pl.tasks.CausalLMTask" in text
    assert "datamodules.MiniWorld" in text
    assert "--quiet" in text
    assert "A DataModule standardizes" not in text
    for listed in ("EarlyStopping", "tera_pl.callbacks.PeftComparison", "loggers.WandbLogger"):
        assert listed in text
    # Bases, callbacks with keys of their own, and what a run refuses.
    for name in (
        *("lightning.LightningModule", "EvaluationModule", "InstructionDataModule"),
        *("callbacks.BestCheckpoint", "callbacks.RankLogger", "DummyLogger"),
        *("callbacks.WeightAveraging", "EMAWeightAveraging", "strategies.FSDPStrategy"),
    ):
        assert not re.search(rf"(?<![(]){re.escape(name)}[,)]", text), name
