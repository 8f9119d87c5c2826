"""Lightning's private names do what the project uses them for."""

import inspect
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.strategies import ModelParallelStrategy

from tera_pl.private_api.lightning import (
    OVERRIDDEN,
    attached_trainer,
    build_with_hyperparameters,
    move_optimizer_state,
    resolve_data_parallel_size,
    strategy_settings,
    subcommand_parser,
    validates_now,
)


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_overridden_methods_have_these_parameters_and_are_called(name):
    parameters = inspect.signature(getattr(LightningCLI, name)).parameters
    assert tuple(parameters) == ("self", *OVERRIDDEN[name])
    source = inspect.getsource(LightningCLI)
    assert f"self.{name}(" in source


class Module(LightningModule):
    def __init__(self, width: int = 1) -> None:
        super().__init__()
        self.save_hyperparameters()


@pytest.mark.parametrize("key", ["model", "data"])
def test_hyperparameters_are_those_of_the_configuration(key):
    dump = {key: {"class_path": "x.Module", "init_args": {"width": "3 as written"}}}
    cli = SimpleNamespace(config_dump=dump, _dump_config=lambda: None)
    module = build_with_hyperparameters(cli, key, {})(Module, width=3)
    assert module.hparams["width"] == "3 as written"
    assert LightningCLI._dump_config  # what it calls


def test_parser_of_a_subcommand():
    cli = LightningCLI.__new__(LightningCLI)
    parser = ArgumentParser()
    cli.parser, cli._subcommand_parsers = ArgumentParser(), {"fit": parser}
    assert subcommand_parser(cli, "fit") is parser


def make_trainer(**settings):
    quiet = ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing")
    return Trainer(accelerator="cpu", **dict.fromkeys(quiet, False), **settings)


def test_trainer_of_a_module():
    module = Module()
    assert attached_trainer(module) is None
    module.trainer = make_trainer()
    assert attached_trainer(module) is module.trainer


class Record(Callback):
    def __init__(self):
        self.announced, self.begun, self.batch = [], [], None

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.batch = batch_idx
        if validates_now(trainer):
            self.announced.append((trainer.current_epoch, batch_idx))

    def on_validation_start(self, trainer, pl_module):
        self.begun.append((trainer.current_epoch, self.batch))


@pytest.mark.parametrize("interval", [1.0, 2, 3])
def test_validation_is_announced_before_it_begins(interval):
    record = Record()
    trainer = make_trainer(
        callbacks=[record],
        max_epochs=2,
        val_check_interval=interval,
        num_sanity_val_steps=0,
        limit_train_batches=5,
        limit_val_batches=1,
    )
    trainer.fit(BoringModel())
    assert record.begun
    assert record.announced == record.begun


def test_settings_of_a_strategy():
    settings = {
        "data_parallel_size": 3,
        "tensor_parallel_size": 1,
        "process_group_backend": "gloo",
        "timeout": timedelta(seconds=7),
    }
    assert strategy_settings(ModelParallelStrategy(**settings)) == settings
    assert settings.keys() <= inspect.signature(ModelParallelStrategy).parameters.keys()


def test_data_parallel_size_is_the_number_of_processes():
    strategy = ModelParallelStrategy("auto")
    strategy.num_nodes, strategy.parallel_devices = 2, [torch.device("cpu")] * 3
    resolve_data_parallel_size(strategy)
    assert strategy_settings(strategy)["data_parallel_size"] == 6
    strategy = ModelParallelStrategy(4)
    resolve_data_parallel_size(strategy)
    assert strategy_settings(strategy)["data_parallel_size"] == 4


def test_optimizer_state_is_moved():
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([parameter])
    parameter.sum().backward()
    optimizer.step()
    move_optimizer_state(optimizer, torch.device("meta"))
    assert optimizer.state[parameter]["exp_avg"].device.type == "meta"
