"""Every logger gets what it can take, and a resumed run continues with the same loggers."""

import csv
import json
import struct
from collections import defaultdict
from pathlib import Path

import pytest
import torch
import wandb
import yaml
from mlflow import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record

from tera_pl.cli import main
from tests.attempts import attempt
from tests.conftest import code_blocks

pytestmark = pytest.mark.slow

BLOCKS = [
    yaml.safe_load(block["text"])["trainer"]["logger"]
    for block in code_blocks("docs/loggers.md", "yaml")
]
CSV, WANDB, MLFLOW, ALL, NONE = BLOCKS


def write(path, config, loggers, **trainer):
    content = {"base": [str(config)], "trainer": {"logger": loggers, **trainer}}
    content["model"] = {"init_args": {"schedule": {"name": "constant_with_warmup"}}}
    path.write_text(yaml.safe_dump(content))
    return str(path)


@pytest.fixture(scope="module")
def folder(config, tmp_path_factory):
    """Where a run with all loggers was fitted, resumed and tested, and one with services alone."""
    folder = tmp_path_factory.mktemp("loggers")
    run = "runs/mine/version_0"
    services = write(folder / "services.yaml", config, [WANDB, MLFLOW], max_steps=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.setenv("WANDB_SILENT", "true")
        for arguments in (
            ["fit", write(folder / "all.yaml", config, ALL, max_steps=4)],
            ["fit", write(folder / "longer.yaml", config, ALL), "last"],
            ["test", f"{run}/config.yaml", f"{run}/checkpoints/best.ckpt"],
            ["fit", services],
            ["test", services, "last"],
        ):
            command, settings, *checkpoint = arguments
            given = [f"--ckpt_path={path}" for path in checkpoint]
            assert main([command, "--config", settings, *given]) == 0
            wandb.finish()  # as at the end of a process
    return folder


@pytest.fixture(scope="module")
def run(folder):
    return folder / "runs" / "mine" / "version_0"


@pytest.fixture(scope="module")
def events(run):
    events = EventAccumulator(str(run), size_guidance={"scalars": 0, "tensors": 0, "images": 0})
    events.Reload()
    return events


@pytest.fixture(scope="module")
def service_run(folder, run):
    """A client of MLflow with the id of the run; the records of W&B."""
    ids = json.loads((run / "loggers.json").read_text())
    (tracked,), (logged,) = ids["MLFlowLogger"], ids["WandbLogger"]
    files = sorted(folder.glob(f"runs/wandb/offline-run-*-{logged}/*.wandb"))
    assert len(files) == 3  # fit, resumed fit and test are the same run of W&B
    return (
        MlflowClient(f"sqlite:///{folder}/mlflow.db"),
        tracked,
        [record for file in files for record in records_of(file)],
    )


def records_of(file):
    """Read what W&B wrote offline: protobuf records in the log format of LevelDB."""
    data, record = file.read_bytes(), b""
    place = 7  # after the magic of the file
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
        length, kind = struct.unpack("<HB", data[place + 4 : place + 7])
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # complete, or the last part
            yield Record.FromString(record)
            record = b""


def history(records):
    """Scalars by name and step, of the history that W&B wrote."""
    found = defaultdict(dict)
    for record in records:
        if record.WhichOneof("record_type") == "history":
            items = {"/".join(item.nested_key): item.value_json for item in record.history.item}
            values = {name: json.loads(text) for name, text in items.items()}
            for name, value in values.items():
                if isinstance(value, int | float):
                    found[name][values["trainer/global_step"]] = value
    return found


def test_scalars_are_the_same_everywhere(run, events, service_run):
    expected = {
        tag: {event.step: pytest.approx(event.value) for event in events.Scalars(tag)}
        for tag in events.Tags()["scalars"]
    }
    assert {"train/loss", "lr", "val/accuracy", "ranks/q_proj/rank", "resources/trained"} <= set(
        expected
    )
    assert set(expected["val/loss"]) == {3, 7}  # of the part before and after resuming
    client, tracked, records = service_run
    logged = history(records)
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    for tag, points in expected.items():
        in_mlflow = {p.step: p.value for p in client.get_metric_history(tracked, tag)}
        assert in_mlflow == points, tag
        assert logged[tag] == points, tag
        assert {int(row["step"]): float(row[tag]) for row in rows if row[tag]} == points, tag


def test_a_test_has_the_step_of_its_checkpoint(run, events, service_run):
    step = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["global_step"]
    assert step > 0
    assert json.loads((run / "results.json").read_text())["test"]["step"] == step
    lines = (run / "predictions.jsonl").read_text().splitlines()
    assert {json.loads(line)["step"] for line in lines} == {step}
    assert [event.step for event in events.Tensors("test/predictions/text_summary")] == [step]
    assert [event.step for event in events.Scalars("test/accuracy")] == [step]
    client, tracked, _ = service_run
    (artifact,) = client.list_artifacts(tracked, "test/predictions")
    assert Path(artifact.path).name == f"{step}.md"


def test_figures_and_texts_go_to_all_that_take_them(folder, events, service_run):
    # At the end of each part: the best checkpoint is that of step 4.
    assert [event.step for event in events.Images("ranks/per_layer")] == [4, 4]
    client, tracked, records = service_run
    for path, names in (("ranks/per_layer", {"4.png"}), ("val/predictions", {"4.md", "8.md"})):
        found = {Path(artifact.path).name for artifact in client.list_artifacts(tracked, path)}
        assert found == names
    media = {
        json.loads(item.value_json)
        for record in records
        for item in record.history.item
        if item.nested_key[-1] in {"path", "filenames"} and item.value_json.startswith('"')
    }
    tables = [path for path in media if path.startswith("media/table/val/predictions")]
    (table,) = folder.glob(f"runs/wandb/*/files/{tables[0]}")
    content = json.loads(table.read_text())
    assert content["columns"] == ["id", "task", "prompt", "output", "reference", "correct"]
    assert len(content["data"]) == 8
    images = list(folder.glob("runs/wandb/*/files/media/images/ranks/per_layer_*.png"))
    assert len(images) == 3  # of both parts, and of the run with services alone


def test_settings_go_to_all(run, service_run):
    client, tracked, records = service_run
    params = client.get_run(tracked).data.params
    # A resumed run may have other settings; MLflow keeps the first.
    assert (params["optimizer.lr"], params["Method"]) == ("0.1", "TeraConfig")
    assert params["training.max_steps"] == "4"
    assert yaml.safe_load((run / "hparams.yaml").read_text())["optimizer.lr"] == 0.1
    updates = [update for record in records for update in record.config.update]
    rates = {json.loads(u.value_json) for u in updates if u.key == "optimizer.lr"}
    assert rates == {0.1}


def test_several_loggers_share_a_folder(run):
    assert [path.name for path in run.parent.iterdir()] == ["version_0"]


def test_services_alone_have_a_run_directory(folder):
    run = folder / "runs" / "WandbLogger" / "version_0"
    assert [path.name for path in run.parent.iterdir()] == ["version_0"]
    names = {"config.yaml", "results.json", "predictions.jsonl", "checkpoints", "adapter"}
    assert names <= {path.name for path in run.iterdir()}
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"last.ckpt"}
    assert {path.name for path in (folder / "runs").iterdir()} == {"WandbLogger", "mine", "wandb"}


@pytest.mark.parametrize(("given", "names"), [(CSV, ["CSV"]), (WANDB, ["Wandb"]), (NONE, [])])
def test_a_block_of_the_page_replaces_the_logger(
    given, names, config, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "one.yaml", config, given)
    code, errors, cli = attempt(["fit", "--config", path], capsys)
    assert (code, errors) == (0, [])
    assert [type(logger).__name__ for logger in cli.trainer.loggers] == [
        f"{n}Logger" for n in names
    ]
    if names == ["CSV"]:
        assert cli.trainer.log_dir == "runs/mine/version_0"
    if not names:
        assert cli.trainer.default_root_dir == "runs/unlogged/version_0"


def test_a_service_that_refuses_the_run_is_one_line(config, tmp_path, monkeypatch, capsys):
    def refuse(**settings):
        raise wandb.errors.UsageError("No API key configured.\nUse `wandb login` to log in.")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(wandb, "init", refuse)
    assert main(["fit", "--config", write(tmp_path / "one.yaml", config, WANDB)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert line == (
        "error: trainer.logger (WandbLogger): UsageError: No API key configured. Use `wandb login` "
        "to log in."
    )
