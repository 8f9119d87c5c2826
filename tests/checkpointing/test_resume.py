"""A resumed run logs as configured, into its run directory."""

import yaml
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from tera_pl.checkpointing.markers import mark_new_folder
from tera_pl.checkpointing.resume import keep_metrics
from tests.attempts import attempt

CSV = "lightning.pytorch.loggers.CSVLogger"
TENSORBOARD = "lightning.pytorch.loggers.TensorBoardLogger"


class OwnLogger(CSVLogger):
    """A user's."""


def loggers_of(logger, tiny_config, tmp_path, monkeypatch, capsys, *arguments):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "moved" / "run" / "version_3"
    (run / "checkpoints").mkdir(parents=True)
    mark_new_folder(run, "run")
    checkpoint = run / "checkpoints" / "last.ckpt"
    checkpoint.touch()
    config = yaml.safe_load(tiny_config.read_text())
    config["trainer"]["logger"] = logger
    tiny_config.write_text(yaml.safe_dump(config))
    args = ["fit", "--config", str(tiny_config), "--ckpt_path", str(checkpoint), *arguments]
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
    for text in ("first", "second"):
        (tmp_path / "metrics.csv").write_text(text)
        keep_metrics(tmp_path)
    keep_metrics(tmp_path)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {
        "metrics.1.csv": "first",
        "metrics.2.csv": "second",
    }
