"""Private names of Lightning."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from lightning.fabric.utilities.optimizer import _optimizer_to_device as move_optimizer_state
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, _InstantiatorFn
from lightning.pytorch.strategies import ModelParallelStrategy

__all__ = [
    "OVERRIDDEN",
    "attached_trainer",
    "build_with_hyperparameters",
    "move_optimizer_state",
    "resolve_data_parallel_size",
    "save_last_checkpoint",
    "strategy_settings",
    "subcommand_parser",
    "validates_now",
]

# Private methods of LightningCLI that its subclasses here override; Lightning calls each of them.
OVERRIDDEN = {
    "_instantiate_trainer": ("config", "callbacks"),
    "_parse_ckpt_path": (),
    "_run_subcommand": ("subcommand",),
    "_set_seed": (),
}


def build_with_hyperparameters(
    cli: LightningCLI, key: Literal["model", "data"], links: dict[str, Any]
) -> Callable[..., Any]:
    """Give the constructor of LightningCLI that records what `save_hyperparameters` needs.

    Args:
        cli: The command line.
        key: Key of the object to build.
        links: Values of linked arguments, as jsonargparse passes them to an instantiator.

    Returns:
        Called with a class and its arguments; returns the object.
    """
    return partial(_InstantiatorFn(cli, key), applied_instantiation_links=links)


def subcommand_parser(cli: LightningCLI, subcommand: str) -> LightningArgumentParser:
    """Give the parser of a subcommand.

    Args:
        cli: The command line.
        subcommand: For example `fit`.

    Returns:
        The parser of its options.
    """
    return cli._parser(subcommand)


def attached_trainer(module: LightningModule) -> Trainer | None:
    """Give the trainer of a module; the public attribute raises if a module has no trainer.

    Args:
        module: The module.

    Returns:
        Its trainer, or None.
    """
    return module._trainer


def validates_now(trainer: Trainer) -> bool:
    """Check whether a validation is due after the current training batch.

    Args:
        trainer: The trainer, in `on_train_batch_end`.

    Returns:
        Whether Lightning starts a validation before the next batch.
    """
    loop = trainer.fit_loop
    assert loop._data_fetcher is not None
    return loop.epoch_loop._should_check_val_fx(loop._data_fetcher)


def save_last_checkpoint(checkpoint: ModelCheckpoint, trainer: Trainer, epoch_end: bool) -> None:
    """Save `last.ckpt`, unless this step is saved already or nothing is to be saved.

    Args:
        checkpoint: The callback, which has `save_last`.
        trainer: The trainer; nothing is saved in its sanity check.
        epoch_end: Whether this is `on_train_epoch_end` instead of `on_validation_end`. Of the two,
            checkpoints are saved in one: a step that the other saves would have no best checkpoint.
    """
    here = checkpoint._should_save_on_train_epoch_end(trainer) == epoch_end
    if here and not checkpoint._should_skip_saving_checkpoint(trainer):
        checkpoint._save_last_checkpoint(trainer, checkpoint._monitor_candidates(trainer))


def strategy_settings(strategy: ModelParallelStrategy) -> dict[str, Any]:
    """Read the arguments that a strategy was constructed with.

    Args:
        strategy: The strategy, before it is set up.

    Returns:
        `data_parallel_size`, `tensor_parallel_size`, `process_group_backend` and `timeout`.
    """
    names = ("data_parallel_size", "tensor_parallel_size", "process_group_backend", "timeout")
    return {name: getattr(strategy, f"_{name}") for name in names}


def resolve_data_parallel_size(strategy: ModelParallelStrategy) -> None:
    """Set a data parallel size of `auto` to the number of processes; Lightning sets that of nodes.

    Args:
        strategy: The strategy, before its environment is set up.
    """
    if strategy._data_parallel_size == "auto":
        strategy._data_parallel_size = strategy.num_nodes * strategy.num_processes
