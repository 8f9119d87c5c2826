"""A checkpoint meets another run: refused by what differs, or let in by name.

And the same run twice: the same bits.
"""

import hashlib
import json
import shutil

import pytest
import torch

from tera_pl.cli import main

pytestmark = pytest.mark.slow  # whole runs

TEMPLATE = "Question: {instruction} Answer:"
ALLOW = "--model.init_args.allow_changed"


@pytest.fixture(scope="module")
def finished(write_tiny_config, tmp_path_factory):
    """Folder in which the same run was made twice, and tested."""
    folder = tmp_path_factory.mktemp("finished")
    config = str(write_tiny_config(folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["tera_pl"])
        for version in range(2):
            assert main(["fit", "--config", config]) == 0
            best = f"runs/run/version_{version}/checkpoints/best.ckpt"
            assert main(["test", "--config", config, "--ckpt_path", best]) == 0
    return folder


@pytest.fixture
def again(finished, tmp_path, monkeypatch):
    """Run a command from a checkpoint of a copy of the run."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)

    def run(command, *changes):
        arguments = [command, "--config", "config.yaml", *changes]
        return main([*arguments, "--ckpt_path", "runs/run/version_0/checkpoints/last.ckpt"])

    return run


def load(folder, version):
    path = folder / "runs" / "run" / version / "checkpoints" / "last.ckpt"
    return torch.load(path, weights_only=True)


def test_same_seed_gives_the_same_bits(finished):
    first, second = load(finished, "version_0"), load(finished, "version_1")
    assert first["state_dict"].keys() == second["state_dict"].keys()
    for name, value in first["state_dict"].items():
        assert torch.equal(value, second["state_dict"][name])
    runs = [finished / "runs" / "run" / f"version_{version}" for version in range(2)]
    assert len({(run / "predictions.jsonl").read_bytes() for run in runs}) == 1
    assert len({(run / "adapter/adapter_model.safetensors").read_bytes() for run in runs}) == 1
    results = [json.loads((run / "results.json").read_text()) for run in runs]
    for stage in ("fit", "test"):
        assert results[0][stage]["scores"] == results[1][stage]["scores"]


def test_seed_of_the_run_is_not_that_of_the_adapter(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = str(finished / "config.yaml")
    assert main(["fit", "--config", config, "--seed_everything", "2"]) == 0
    first, second = load(finished, "version_0"), load(tmp_path, "version_0")
    assert first["tera_pl"]["adapter"] == second["tera_pl"]["adapter"]
    assert first["tera_pl"]["training"]["seed"] == 1
    assert second["tera_pl"]["training"]["seed"] == 2
    name = next(iter(first["state_dict"]))
    assert not torch.equal(first["state_dict"][name], second["state_dict"][name])


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_another_template_is_refused_by_every_command(command, again, capfd):
    assert again(command, "--data.init_args.encoding.template", TEMPLATE) == 2
    (message,) = [
        line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")
    ]
    assert "data.encoding.template is 'Below is an instruction" in message
    assert f"and {TEMPLATE!r} in this run" in message


def test_another_template_is_let_in_by_name_and_written_down(again, tmp_path):
    changes = ["--data.init_args.encoding.template", TEMPLATE]
    name = "data.encoding.template"
    with pytest.warns(UserWarning, match=f"other than in the checkpoint, as allowed: {name}"):
        assert again("test", *changes, f'{ALLOW}=["{name}"]') == 0
    results = json.loads((tmp_path / "runs/run/version_0/results.json").read_text())
    assert results["test"]["changed_since_checkpoint"] == [name]
    assert results["settings"]["protocol"]["encoding"]["template"] == TEMPLATE


def test_another_tokenizer_is_refused(again, tiny_backbone, tmp_path, capfd):
    base = shutil.copytree(tiny_backbone, tmp_path / "base")
    text = (base / "tokenizer.json").read_text()
    (base / "tokenizer.json").write_text(text.replace('"sky"', '"sea"'))
    assert again("test", "--model.init_args.backbone.path", str(base)) == 2
    message = capfd.readouterr().err.splitlines()[-1]
    assert "tokenizer.sha256 is" in message
    assert "frozen_weights_sha256" not in message


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (["--seed_everything", "2"], "training.seed is 1 in the checkpoint and 2 in this run"),
        (["--data.init_args.batch_size", "2"], "training.batch_size is 4"),
        (["--data.init_args.tokens_per_batch", "300"], "training.tokens_per_batch is None"),
        (["--trainer.max_steps", "12"], "and 12 in this run (the linear schedule depends on"),
        (["--trainer.accumulate_grad_batches", "2"], "training.accumulate_grad_batches is 1"),
    ],
)
def test_training_goes_on_as_it_began(change, key, again, capfd):
    assert again("fit", *change) == 2
    assert key in capfd.readouterr().err.splitlines()[-1]
    # What was trained can be tested all the same.
    assert again("validate", *change) == 0


@pytest.fixture
def edited(tiny_commonsense, tmp_path):
    """Copy the data; the file to edit, and the option that uses the copy."""
    folder = shutil.copytree(tiny_commonsense, tmp_path / "elsewhere")
    return folder / "openbookqa", f"--data.init_args.path={folder}"


def edit(path):
    records = json.loads(path.read_text())
    records[7]["instruction"] = records[7]["instruction"].replace("What", "Which")
    path.write_text(json.dumps(records))


def test_changed_training_file_is_refused_by_its_name_when_training_resumes(again, edited, capfd):
    folder, option = edited
    # Data may move, and what is tested on is no part of the training.
    edit(folder / "test.json")
    assert again("fit", option) == 0
    edit(folder / "train.json")
    capfd.readouterr()
    assert again("fit", option) == 2
    (error,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "training.files.openbookqa/train.json is" in error
    for command in ("validate", "test", "predict"):
        assert again(command, option) == 0
    assert again("fit", option, f'{ALLOW}=["training.files.openbookqa/train.json"]') == 0


def test_test_file_counts_where_its_questions_are_dropped_from_training(
    write_tiny_config, edited, tmp_path, monkeypatch, capfd
):
    folder, option = edited
    monkeypatch.chdir(tmp_path)
    arguments = ["fit", "--config", str(write_tiny_config(tmp_path)), option]
    arguments += ["--data.init_args.leaks=drop", "--trainer.max_steps=2"]
    assert main(arguments) == 0
    assert load(tmp_path, "version_0")["tera_pl"]["training"]["files"] == {
        f"openbookqa/{name}": hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in ("train.json", "test.json")
    }
    edit(folder / "test.json")
    assert main([*arguments, "--ckpt_path", "last"]) == 2
    assert "training.files.openbookqa/test.json is" in capfd.readouterr().err


def test_longer_training_is_let_in_by_name_with_its_own_schedule(again, tmp_path):
    changes = ["--trainer.max_steps", "12", "--model.init_args.optimizer.init_args.lr", "0.02"]
    allowed = f'{ALLOW}=["training.max_steps", "optimizer.lr"]'
    assert again("fit", *changes, allowed) == 0
    last = load(tmp_path, "version_0")
    assert last["global_step"] == 12
    assert last["lr_schedulers"][0]["base_lrs"] == [0.02]
    assert last["optimizer_states"][0]["param_groups"][0]["initial_lr"] == 0.02
    # Goes on again with its own, newer configuration, from its own checkpoint.
    path = "runs/run/version_0/checkpoints/last.ckpt"
    assert main(["fit", "--config", "runs/run/version_0/config_fit.yaml", "--ckpt_path", path]) == 0


def test_open_ended_schedule_trains_longer_to_the_bits_of_one_run(write_tiny_config, tmp_path):
    config = str(write_tiny_config(tmp_path))
    arguments = ["fit", "--config", config, "--model.init_args.schedule.name=constant_with_warmup"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        # There is no run yet: one starts.
        assert main([*arguments, "--ckpt_path", "last"]) == 0
        assert main([*arguments, "--trainer.max_steps", "4"]) == 0
        assert main([*arguments, "--ckpt_path", "last"]) == 0
        assert not (tmp_path / "runs/run/version_2").exists()
        results = json.loads((tmp_path / "runs/run/version_1/results.json").read_text())
        assert results["fit"]["changed_since_checkpoint"] == ["training.max_steps"]
        assert main([*arguments, "--ckpt_path", "last", "--trainer.max_steps", "6"]) == 2
        # The newest run is the one that a word stands for.
        assert main(["test", *arguments[1:], "--ckpt_path", "best"]) == 0
        assert "test" in json.loads((tmp_path / "runs/run/version_1/results.json").read_text())
    one, other = load(tmp_path, "version_0"), load(tmp_path, "version_1")
    assert one["global_step"] == other["global_step"] == 8
    for name, value in one["state_dict"].items():
        assert torch.equal(value, other["state_dict"][name])


@pytest.mark.parametrize("word", ["last", "best"])
def test_word_for_a_checkpoint_that_is_not_there_is_a_mistake(
    word, tiny_config, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    assert main(["test", "--config", str(tiny_config), "--ckpt_path", word]) == 2
    assert f"has a {word} checkpoint" in capfd.readouterr().err


def test_name_that_is_no_setting_is_a_mistake(again, capfd):
    assert again("test", f'{ALLOW}=["data.encoding.templates"]') == 2
    assert "like 'data.encoding.template'" in capfd.readouterr().err.splitlines()[-1]
