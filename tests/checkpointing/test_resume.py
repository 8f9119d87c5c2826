"""A resumed run logs as configured, into its run directory."""

import csv
import json

import pytest
import yaml
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger

from tera_pl.checkpointing.markers import mark_new_folder
from tera_pl.checkpointing.resume import keep_metrics
from tera_pl.checkpointing.service_runs import known_runs
from tera_pl.errors import UserError
from tests.attempts import attempt

CSV = "lightning.pytorch.loggers.CSVLogger"
WANDB = "lightning.pytorch.loggers.WandbLogger"
TENSORBOARD = "lightning.pytorch.loggers.TensorBoardLogger"


class OwnLogger(CSVLogger):
    """A user's."""


def write(config, loggers):
    content = yaml.safe_load(config.read_text())
    content["trainer"]["logger"] = loggers
    config.write_text(yaml.safe_dump(content))
    return str(config)


def loggers_of(logger, tiny_config, tmp_path, monkeypatch, capsys, ids=None):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "moved" / "run" / "version_3"
    (run / "checkpoints").mkdir(parents=True)
    mark_new_folder(run, "run")
    checkpoint = run / "checkpoints" / "last.ckpt"
    checkpoint.touch()
    if ids is not None:
        (run / "loggers.json").write_text(ids)
    args = ["fit", "--config", write(tiny_config, logger), "--ckpt_path", str(checkpoint)]
    code, errors, cli = attempt(args, capsys)
    assert (code, errors) == (0, [])
    return run, cli


def spec(name, **settings):
    return {"class_path": name, "init_args": {"save_dir": "runs", "name": "run", **settings}}


def test_csv_logger_stays(tiny_config, tmp_path, monkeypatch, capsys):
    run, cli = loggers_of(spec(CSV), tiny_config, tmp_path, monkeypatch, capsys)
    (logger,) = cli.trainer.loggers
    assert type(logger) is CSVLogger
    assert logger.log_dir == str(run)
    assert cli.trainer.log_dir == str(run)
    # What is saved as the configuration of this part of the run starts a new one.
    assert cli.config.fit.trainer.logger.init_args.version is None


def test_several_and_a_users_own(tiny_config, tmp_path, monkeypatch, capsys):
    given = [spec(TENSORBOARD), spec(f"{__name__}.OwnLogger", save_dir="elsewhere")]
    run, cli = loggers_of(given, tiny_config, tmp_path, monkeypatch, capsys)
    first, second = cli.trainer.loggers
    assert type(first) is TensorBoardLogger
    assert first.log_dir == str(run)
    assert type(second).__name__ == "OwnLogger"
    assert second.log_dir == "elsewhere/run/version_3"


def test_default_and_none(tiny_config, tmp_path, monkeypatch, capsys):
    run, cli = loggers_of(True, tiny_config, tmp_path, monkeypatch, capsys)
    assert [logger.log_dir for logger in cli.trainer.loggers] == [str(run)]


def test_metrics_of_before_are_kept(tmp_path):
    for part, name in enumerate(("loss", "loss", "accuracy")):
        logger = CSVLogger(tmp_path, name="run", version=0)
        keep_metrics([logger])
        logger.log_metrics({name: 0.5 + part}, step=part)
        logger.save()
    assert [path.name for path in (tmp_path / "run" / "version_0").iterdir()] == ["metrics.csv"]
    with (tmp_path / "run" / "version_0" / "metrics.csv").open() as file:
        assert list(csv.DictReader(file)) == [
            {"step": "0", "loss": "0.5", "accuracy": ""},
            {"step": "1", "loss": "1.5", "accuracy": ""},
            {"step": "2", "loss": "", "accuracy": "2.5"},
        ]


def test_loggers_of_a_new_run_share_its_folder(tiny_config, tmp_path, monkeypatch, capsys):
    given = [spec(CSV), {"class_path": WANDB, "init_args": {"offline": True}}, spec(TENSORBOARD)]
    other = spec(CSV, save_dir="elsewhere")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "run" / "version_4").mkdir(parents=True)
    config = write(tiny_config, [*given, other])
    code, errors, cli = attempt(["fit", "--config", config], capsys)
    assert (code, errors) == (0, [])
    first, service, second, third = cli.trainer.loggers
    assert first.log_dir == second.log_dir == "runs/run/version_5"
    assert isinstance(service, WandbLogger)
    assert third.log_dir == "elsewhere/run/version_0"


def test_services_continue_their_runs(tiny_config, tmp_path, monkeypatch, capsys):
    given = [
        {"class_path": WANDB, "init_args": {"offline": True}},
        {"class_path": WANDB, "init_args": {"offline": True, "id": "mine"}},
        {"class_path": WANDB, "init_args": {"offline": True}},
    ]
    ids = {"WandbLogger": ["first", "second"]}
    run, cli = loggers_of(given, tiny_config, tmp_path, monkeypatch, capsys, ids=json.dumps(ids))
    assert [logger.version for logger in cli.trainer.loggers] == ["first", "mine", None]
    # Where no logger has a folder of its own, the run stays in that of its checkpoint.
    assert cli.trainer.default_root_dir == str(run)


@pytest.mark.parametrize("text", ["{", "[1]", '{"WandbLogger": [1]}', '{"WandbLogger": 3}'])
def test_damaged_ids_are_an_error(text, tmp_path):
    (tmp_path / "loggers.json").write_text(text)
    with pytest.raises(UserError, match=r"loggers\.json is damaged"):
        known_runs(tmp_path)
