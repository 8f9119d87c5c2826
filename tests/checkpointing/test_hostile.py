"""Damaged checkpoints and adapters: refused, or without effect. Never another result."""

import copy
import shutil
from pathlib import Path

import peft
import pytest
import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM

from tera_pl.checkpointing.checkpoint_io import DIGESTS, AtomicCheckpointIO, check_version
from tera_pl.cli import main
from tera_pl.errors import UserError
from tera_pl.tasks import CausalLMTask
from tests.checkpointing.hostile import damaged_bytes, damaged_content, same
from tests.soak import more

SOAK = more(1, times=20)
IO = AtomicCheckpointIO()


@pytest.fixture(scope="module")
def tasks():
    """The task of the run, which the run puts here."""
    return []


@pytest.fixture(scope="module")
def run(write_tiny_config, tmp_path_factory, tasks):
    """The folder of a short run, with a checkpoint and an adapter."""
    folder = tmp_path_factory.mktemp("run")
    config = str(write_tiny_config(folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["tera_pl"])
        patch.setattr(CausalLMTask, "on_train_start", lambda task: tasks.extend([task]))
        assert main(["fit", "--config", config, "--trainer.max_steps", "4"]) == 0
    return folder / "runs" / "run" / "version_0"


def outcome(load, *arguments, errors=UserError):
    """What a function gives, and the message of its error."""
    try:
        return load(*arguments), None
    except errors as error:
        return None, str(error)


@pytest.mark.slow
def test_damaged_bytes_of_a_checkpoint_are_refused_or_change_nothing(run, tmp_path):
    path = tmp_path / "damaged.ckpt"
    content = (run / "checkpoints" / "last.ckpt").read_bytes()
    intact = IO.load_checkpoint(run / "checkpoints" / "last.ckpt")
    refused = 0
    for what, damaged in damaged_bytes(content, seed=0, every=len(content) // (120 * SOAK)):
        path.write_bytes(damaged)
        found, message = outcome(IO.load_checkpoint, path)
        refused += message is not None
        assert same(found, intact) if message is None else str(path) in message, what
        assert message is None or "weights_only" not in message, what
    assert refused > 60


def test_changed_entries_of_a_checkpoint_are_refused(run, tmp_path):
    """As a file that was edited: the digests are those of the content before."""
    path = tmp_path / "damaged.ckpt"
    intact = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    for what, damaged in damaged_content(intact, seed=1, count=60 * SOAK):
        torch.save(damaged, path)
        found, message = outcome(IO.load_checkpoint, path)
        unchanged = message is None and same(found, {k: intact[k] for k in found})
        assert message or (unchanged and found.keys() == intact.keys() - {DIGESTS}), what


def test_changed_entries_with_new_digests_are_refused_or_load(run, tasks):
    """As a file that was made on purpose: whatever is in it, the error is one for the user."""
    intact = IO.load_checkpoint(run / "checkpoints" / "last.ckpt")
    (task,) = tasks
    refused = 0
    for what, damaged in damaged_content(intact, seed=3, count=120 * SOAK):
        try:
            _, message = outcome(_resume, task, damaged)
        except Exception as error:
            raise AssertionError(f"{what}: {error!r}") from error
        refused += message is not None
        assert "\n" not in (message or ""), what
    assert refused > 60
    _resume(task, intact)


def _state(content):
    return content["optimizer_states"][0]["state"]


def _first(values, change):
    name = next(iter(values))
    values[name] = change(values[name])


NAMED = {
    "nan": (lambda c: _first(c["state_dict"], lambda v: v * float("nan")), "tera_vectors.* NaN"),
    "integer": (lambda c: _first(c["state_dict"], lambda v: v.int()), "tera_vectors.* torch.int32"),
    "no tensor": (lambda c: _first(c["state_dict"], lambda v: "x"), "tera_vectors"),
    "moment of another shape": (
        lambda c: _state(c)[0].update(exp_avg=torch.zeros(99)),
        r"optimizer_states\[0\]\['state'\]\[0\]\['exp_avg'\] is torch.float32 of shape \(99,\)",
    ),
    "moment that is missing": (lambda c: _state(c)[1].pop("exp_avg_sq"), r"\[1\] .* exp_avg_sq"),
    "moment that is infinite": (
        lambda c: _first(_state(c)[2], lambda v: v + float("inf")),
        r"\['state'\]\[2\]\['step'\] has values that are NaN or infinite",
    ),
    "decay": (
        lambda c: c["optimizer_states"][0]["param_groups"][0].update(weight_decay=0.5),
        "weight_decay 0.5, but the checkpoint was made with",
    ),
    "loops": (lambda c: c.pop("loops"), "loops is missing"),
    "progress": (lambda c: c["loops"]["fit_loop"].pop("epoch_progress"), "lacks 'epoch_progress'"),
    "callbacks": (lambda c: c.pop("callbacks"), "callbacks is missing"),
    "callback": (lambda c: c["callbacks"].pop("ResultsWriter"), "no state of ResultsWriter"),
    "optimizer": (lambda c: c.pop("optimizer_states"), "optimizer_states does not hold one state"),
    "schedule": (lambda c: c.update(lr_schedulers=[]), "lr_schedulers does not hold one state"),
}


@pytest.mark.parametrize("name", NAMED)
def test_error_names_the_entry(name, run, tasks):
    change, message = NAMED[name]
    content = IO.load_checkpoint(run / "checkpoints" / "last.ckpt")
    change(content)
    with pytest.raises(UserError, match=message):
        _resume(tasks[0], content)


@pytest.mark.slow
def test_damaged_and_foreign_files_are_one_line_and_exit_2(run, tmp_path, capfd, monkeypatch):
    # A run that starts from a foreign checkpoint has a new run directory below the current folder.
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "foreign.ckpt"
    torch.save(torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"], path)
    arguments = ["fit", "--config", str(run / "config.yaml"), "--ckpt_path", str(path)]
    assert main(arguments) == 2
    content = IO.load_checkpoint(run / "checkpoints" / "last.ckpt")
    NAMED["nan"][0](content)
    IO.save_checkpoint(content, path)
    assert main(arguments) == 2
    error = capfd.readouterr().err
    messages = [line for line in error.splitlines() if line.startswith("error: ")]
    assert "has no checksums" in messages[0]
    assert "NaN or infinite" in messages[1]
    assert "Traceback" not in error


def _resume(task, checkpoint):
    """Do what Lightning does with a checkpoint, in its order, and a step."""
    check_version(checkpoint, "last.ckpt")
    trainer = task.trainer
    trainer._checkpoint_connector._loaded_checkpoint = checkpoint
    task.on_load_checkpoint(checkpoint)
    task.load_state_dict(checkpoint["state_dict"], strict=False)
    trainer._checkpoint_connector.restore_callbacks()
    trainer.fit_loop.load_state_dict(copy.deepcopy(checkpoint["loops"]["fit_loop"]))
    (optimizer,), (config,) = trainer.optimizers, trainer.lr_scheduler_configs
    optimizer.load_state_dict(copy.deepcopy(checkpoint["optimizer_states"][0]))
    config.scheduler.load_state_dict(copy.deepcopy(checkpoint["lr_schedulers"][0]))
    for parameter in task.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    config.scheduler.step()


def test_damaged_adapter_is_refused_or_changes_nothing(run, tiny_backbone, tmp_path):
    folder = Path(shutil.copytree(run / "adapter", tmp_path / "adapter"))
    base = AutoModelForCausalLM.from_pretrained(tiny_backbone, dtype=torch.float32)
    path = folder / "adapter_model.safetensors"
    content = path.read_bytes()
    intact = _load_adapter(base, folder)
    refused = 0
    for what, damaged in damaged_bytes(content, seed=2, every=len(content) // (40 * SOAK)):
        path.write_bytes(damaged)
        # What plain peft reads a file with raises errors of its own.
        errors = (UserError, SafetensorError, KeyError, ValueError)
        found, message = outcome(_load_adapter, base, folder, errors=errors)
        refused += message is not None
        assert message is not None or same(found, intact), what
    assert refused > 20


def _load_adapter(base, folder):
    model = peft.PeftModel.from_pretrained(copy.deepcopy(base), folder)
    return {name: value.clone() for name, value in peft.get_peft_model_state_dict(model).items()}
