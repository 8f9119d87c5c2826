"""Quick runs write nothing into the current folder, and run directories are the program's own."""

from pathlib import Path

import pytest

from tera_pl.__main__ import main as command
from tera_pl.cli import lightning_cli, main

pytestmark = pytest.mark.slow


@pytest.fixture
def here(tiny_config, tmp_path, monkeypatch):
    """A current folder of a user, with what the program has names for."""
    folder = tmp_path / "here"
    for name in ("adapter", "adapter.old", "adapter.part", "checkpoints", "lightning_logs"):
        (folder / name).mkdir(parents=True)
        (folder / name / "thesis").write_text("years")
    for name in ("results.json", "predictions.jsonl", "ranks.csv", "config.yaml"):
        (folder / name).write_text("years")
    monkeypatch.chdir(folder)
    return folder


def files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_text(errors="replace")
        for path in folder.rglob("*")
        if path.is_file()
    }


def run(subcommand, config, *options):
    return main([subcommand, "--config", str(config), "--trainer.max_steps=2", *options])


@pytest.mark.parametrize("subcommand", ["fit", "test"])
def test_a_development_run_leaves_nothing(subcommand, here, tiny_config, tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    kept: list[bool] = []
    monkeypatch.setattr(lightning_cli, "keep_freed_memory", lambda: kept.append(True))
    before = files(here)
    assert run(subcommand, tiny_config, "--trainer.fast_dev_run=true") == 0
    assert kept == [True]  # a run on the CPU
    assert files(here) == before
    assert not [p.name for p in temporary.iterdir() if p.name.startswith("tera_pl")]


def test_a_run_without_logger_has_a_run_directory_of_its_own(here, tiny_config):
    before = files(here)
    off = "--trainer.logger=false"
    assert run("fit", tiny_config, off) == 0
    new = {name for name in files(here) if name not in before}
    place = "runs/unlogged/version_0"
    assert {f"{place}/{name}" for name in ("config.yaml", "results.json", "ranks.csv")} < new
    assert {f"{place}/checkpoints/best.ckpt", f"{place}/adapter/adapter_config.json"} < new
    assert all(name.startswith(f"{place}/") for name in new)
    assert {name: text for name, text in files(here).items() if name in before} == before
    # A test of its checkpoint writes to the same directory; one of the base has its own.
    best = f"{place}/checkpoints/best.ckpt"
    assert run("test", tiny_config, off, "--ckpt_path", best) == 0
    assert (here / place / "predictions.jsonl").exists()
    assert run("test", tiny_config, off, "--trainer.default_root_dir=elsewhere") == 0
    assert (here / "elsewhere/unlogged/version_0/predictions.jsonl").exists()
    assert command(["export", "--ckpt_path", best, "--output", "adapter"]) == 2
    assert command(["export", "--ckpt_path", best, "--output", "adapter", "--overwrite"]) == 2
    assert {name: text for name, text in files(here).items() if name in before} == before


def test_a_run_without_checkpoints_keeps_its_last_weights(here, tiny_config):
    before = files(here)
    assert run("fit", tiny_config, "--trainer.enable_checkpointing=false") == 0
    new = {name for name in files(here) if name not in before}
    assert "runs/run/version_0/adapter/adapter_model.safetensors" in new
    assert not [name for name in new if name.endswith(".ckpt")]
    both = ["--trainer.enable_checkpointing=false", "--trainer.logger=false"]
    assert run("fit", tiny_config, *both) == 0
    assert (here / "runs/unlogged/version_0/adapter").is_dir()
    assert {name: text for name, text in files(here).items() if name in before} == before


LOGGER = "--trainer.logger.init_args"


def test_a_run_does_not_start_in_what_it_did_not_write(here, tiny_config, capfd):
    before = files(here)
    mine = Path("runs/run/mine")
    mine.mkdir(parents=True)
    (mine / "results.json").write_text("years")
    for options, message in (
        ([f"{LOGGER}.version=mine"], "runs/run/mine is there and was not written as a run"),
        (
            [f"{LOGGER}.{name}=." for name in ("save_dir", "name", "version")],
            "the current folder cannot be a run",
        ),
        (["--checkpoint.dirpath=checkpoints"], "was not written as a folder of checkpoints"),
        (["--checkpoint.filename=../best"], "checkpoint.filename is '../best'"),
    ):
        capfd.readouterr()
        assert run("fit", tiny_config, *options) == 2, options
        assert message in capfd.readouterr().err
    assert (mine / "results.json").read_text() == "years"
    assert {name: text for name, text in files(here).items() if name in before} == before


def test_a_checkpoint_in_a_folder_of_the_user_starts_a_run_elsewhere(here, tiny_config, capfd):
    assert run("fit", tiny_config) == 0
    first = here / "runs/run/version_0"
    checkpoint = here / "checkpoints" / "best.ckpt"  # beside the user's results.json
    checkpoint.write_bytes((first / "checkpoints" / "best.ckpt").read_bytes())
    before = files(here)
    assert run("test", tiny_config, "--ckpt_path", str(checkpoint)) == 0
    after = files(here)
    assert {name: after[name] for name in before} == before
    assert (here / "runs/run/version_1/predictions.jsonl").exists()
    # What somebody added to the adapter's folder stays, and training does not start.
    (first / "adapter" / "notes").write_text("mine")
    last = str(first / "checkpoints" / "last.ckpt")
    assert run("fit", tiny_config, "--ckpt_path", last) == 2
    message = "adapter holds notes, which this program did not write"
    assert message in capfd.readouterr().err
    assert (first / "adapter" / "notes").read_text() == "mine"
