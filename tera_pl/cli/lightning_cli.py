"""The command line: LightningCLI with the standard callbacks and one-line errors."""

import os
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from jsonargparse import Namespace, set_parsing_settings
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.cli import (
    ArgsType,
    LightningArgumentParser,
    LightningCLI,
    _InstantiatorFn,
)
from lightning.pytorch.utilities import rank_zero_info
from peft import PeftConfig
from transformers.utils.logging import disable_progress_bar

from tera_pl import adapters  # noqa: F401 - registers its methods with PEFT
from tera_pl.callbacks import (
    BestAdapter,
    BestCheckpoint,
    Interruption,
    MatmulPrecision,
    PrecisionGuard,
    PredictionWriter,
    RankLogger,
    ResourceMonitor,
    ResultsWriter,
    TensorBoardLayout,
)
from tera_pl.checkpointing.checkpoint_io import AtomicCheckpointIO
from tera_pl.checkpointing.checkpoint_paths import KEYWORDS, find_checkpoint
from tera_pl.checkpointing.resume import keep_metrics, place_loggers, run_of
from tera_pl.checkpointing.run_directory import RunConfig, place_run
from tera_pl.cli.error_reporting import guard
from tera_pl.cli.parsing_errors import Parser
from tera_pl.cli.trainer_settings import check_callbacks, check_trainer
from tera_pl.config.construction import Builder, first_failure, user_errors
from tera_pl.config.fragments import empty_mappings, expand, has_key
from tera_pl.distributed.strategy import prepare_strategy
from tera_pl.errors import UserError

# Warnings about the inside of a library, or about what is meant so.
NOISE = (
    ".*does not have many workers.*",
    ".*treespec, LeafSpec.*",
    ".*gradient_checkpointing.* is deprecated.*",
    ".*args parameter is intended to run from within Python.*",
)
MODULES = {"model": LightningModule, "data": LightningDataModule}
COMMANDS = ("fit", "validate", "test", "predict")

set_parsing_settings(
    # A subclass of a dataclass is accepted for `adapter` only where jsonargparse is told so.
    subclasses_enabled=[PeftConfig],
    # Where any value may stand, a `class_path` is a value like others.
    instantiate_subclass_spec_in_any=False,
    # Enforces jsonargparse's own list: os, subprocess, builtins.exec and the like.
    import_path_denylist=[],
)


class TeraCLI(LightningCLI):
    """LightningCLI whose standard callbacks have keys of their own.

    A list in a second YAML replaces the first, so callbacks that every run needs are no list:
    `checkpoint`, `lr_monitor`, `ranks`, `predictions`, `resources`, `best_adapter`,
    `precision_guard`, `matmul_precision`, `interruption`, `results` and `tensorboard` are
    configured by key, and `trainer.callbacks` is free for more.
    """

    _dev_folder: TemporaryDirectory | None = None

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the standard callbacks, and links so that a fact is written once."""
        parser.add_lightning_class_args(PrecisionGuard, "precision_guard")
        parser.add_lightning_class_args(MatmulPrecision, "matmul_precision")
        parser.add_lightning_class_args(LearningRateMonitor, "lr_monitor")
        parser.add_lightning_class_args(BestCheckpoint, "checkpoint")
        # Its order matters: what follows describes the weights of the best checkpoint.
        parser.add_lightning_class_args(BestAdapter, "best_adapter")
        parser.add_lightning_class_args(RankLogger, "ranks")
        parser.add_lightning_class_args(PredictionWriter, "predictions")
        parser.add_lightning_class_args(ResourceMonitor, "resources")
        parser.add_lightning_class_args(ResultsWriter, "results")
        parser.add_lightning_class_args(TensorBoardLayout, "tensorboard")
        # After the others, so that what they count of a step is in the checkpoint it saves.
        parser.add_lightning_class_args(Interruption, "interruption")
        parser.set_defaults(
            {
                "lr_monitor.logging_interval": "step",
                "checkpoint.filename": "best",
                "checkpoint.monitor": "val/loss",
                "checkpoint.mode": "min",
                "checkpoint.save_last": True,
                # Left open, Lightning decides by whether it has validated yet, which differs
                # between a run and one that goes on.
                "checkpoint.save_on_train_epoch_end": False,
                "checkpoint.auto_insert_metric_name": False,
                "checkpoint.enable_version_counter": False,
            }
        )
        backbone = "model.init_args.backbone"
        parser.link_arguments(f"{backbone}.path", "data.init_args.tokenizer")
        parser.link_arguments(f"{backbone}.revision", "data.init_args.tokenizer_revision")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, and refuse unknown keys with an empty mapping, which the parser passes over."""
        if isinstance(args, list) and (paths := empty_mappings(args)):
            config = parser.parse_args([a for a in args if not a.startswith("--print_config")])
            given = config.get(config.subcommand)
            if unknown := [".".join(path) for path in paths if not has_key(given, path)]:
                raise UserError(f"Option {unknown[0]!r} is not accepted: there is no such key")
        super().parse_arguments(parser, args)

    def _parse_ckpt_path(self) -> None:
        """Keep what YAML and command line say; `last` and `best` are looked up.

        LightningCLI lets hyper-parameters stored in a checkpoint win silently; here a checkpoint
        that was made with other settings is an error, raised where it is loaded.
        """
        settings = self.config[self.config.subcommand]
        path = settings.get("ckpt_path")
        if path in KEYWORDS:
            found = find_checkpoint(path, settings)
            settings["ckpt_path"] = str(found) if found else None
            if found is None and (path, self.config.subcommand) != ("last", "fit"):
                raise UserError(f"ckpt_path: no run of this configuration has a {path} checkpoint")
            rank_zero_info(
                f"ckpt_path: {path} is {found}" if found else "no last checkpoint: a new run starts"
            )
        elif path and not Path(path).is_file():
            raise UserError(
                f"ckpt_path: no file {path}: expected a .ckpt file of a run, last or best"
            )

    def _set_seed(self) -> None:
        with user_errors("seed_everything"):
            super()._set_seed()

    def _build(
        self, cls: type, *args: Any, applied_instantiation_links: dict[str, Any], **kwargs: Any
    ) -> Any:
        keys = [key for key, base in MODULES.items() if issubclass(cls, base)]
        if not keys:
            return self._builder(_call, cls, *args, **kwargs)
        # Lightning's own, which keeps what `save_hyperparameters` needs.
        build: Callable[..., Any] = partial(
            _InstantiatorFn(self, keys[0]), applied_instantiation_links=applied_instantiation_links
        )
        return self._builder(build, cls, *args, **kwargs)

    def instantiate_classes(self) -> None:
        """Build task, datamodule and trainer."""
        self.build_objects()
        self.trainer = self.instantiate_trainer()

    def build_objects(self) -> None:
        """Build every object but the trainer; none has read anything yet.

        Raises:
            UserError: If one cannot be built.
        """
        # A copy: what is saved as the configuration names no version.
        whole = self.config.clone()
        config = whole[whole.subcommand]
        run, trainer = run_of(config.get("ckpt_path")), config["trainer"]
        if run is not None and isinstance(trainer, Namespace):
            trainer["logger"] = place_loggers(trainer["logger"], run)
        self._builder = Builder(config)
        with first_failure(config):
            self.config_init = self.parser.instantiate(
                whole, instantiators=[(self._build, object, True)]
            )
        self.datamodule = self._get(self.config_init, "data")
        self.model = self._get(self.config_init, "model")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer; what starts from a checkpoint goes on in the folder of its run."""
        run = run_of(self._get(self.config, "ckpt_path"))
        if run:
            keep_metrics(run)
            self.save_config_kwargs = {
                "config_filename": f"config_{self.subcommand}.yaml",
                "overwrite": True,
            }
        kwargs["default_root_dir"] = self._root_folder(run)
        kwargs["plugins"] = _with_checkpoint_io(self._get(self.config_init, "trainer.plugins"))
        kwargs["strategy"] = prepare_strategy(self._get(self.config_init, "trainer.strategy"))
        check_trainer(self._get(self.config_init, "trainer"), str(self.subcommand))
        with user_errors("trainer"):
            trainer = super().instantiate_trainer(**kwargs)
        check_callbacks(trainer.callbacks)  # type: ignore[attr-defined]
        self._check_monitors(trainer)
        return trainer

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        """Leave out the standard callbacks that Lightning refuses without logger or checkpoints."""
        if config["logger"] in (False, []):
            callbacks = [c for c in callbacks if not isinstance(c, LearningRateMonitor)]
        if config["enable_checkpointing"] is False:
            callbacks = [c for c in callbacks if not isinstance(c, BestCheckpoint)]
        return super()._instantiate_trainer(config, callbacks)

    def _root_folder(self, run: Path | None) -> Path:
        """Choose the folder for all that no logger places."""
        if self._get(self.config_init, "trainer.fast_dev_run"):
            self._dev_folder = TemporaryDirectory(prefix="tera_pl-fast_dev_run-")
            return Path(self._dev_folder.name)
        trainer = self._get(self.config_init, "trainer")
        return run or place_run(trainer["logger"], trainer["default_root_dir"])

    def _run_subcommand(self, subcommand: str) -> None:
        """Run it; what a development run wrote goes with it."""
        with self._dev_folder or nullcontext():
            super()._run_subcommand(subcommand)

    def _check_monitors(self, trainer: Trainer) -> None:
        """Refuse a monitored name that the task never logs, before hours of training."""
        if not hasattr(self.model, "logged_names"):
            return
        logged = self.model.logged_names()
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            monitor = getattr(callback, "monitor", None)
            if monitor is not None and monitor not in logged:
                raise UserError(
                    f"{type(callback).__name__} monitors {monitor!r}, which is never logged: "
                    f"expected one of {', '.join(sorted(logged))}"
                )


CLI = TypeVar("CLI", bound=TeraCLI)


class ConfigurationCLI(TeraCLI):
    """The objects of a `fit` that is not run: its trainer, which needs the device, is not built."""

    trainer_settings: dict[str, Any]

    def instantiate_classes(self) -> None:
        """Build task and datamodule."""
        self.build_objects()
        self.trainer_settings = self._get(self.config, "trainer").as_dict()

    def _run_subcommand(self, subcommand: str) -> None:
        """Run nothing."""


def _call(cls: type, *args: Any, **kwargs: Any) -> Any:
    return cls(*args, **kwargs)


def _with_checkpoint_io(plugins: Any) -> list[Any]:
    """Add our way to write checkpoints, unless the configuration names one."""
    given = plugins if isinstance(plugins, list) else [] if plugins is None else [plugins]
    if any(isinstance(plugin, CheckpointIO) for plugin in given):
        return given
    return [*given, AtomicCheckpointIO()]


def main(args: ArgsType = None) -> int:
    """Run a verb of the Trainer.

    Args:
        args: Command line arguments; those of the process if none are given.

    Returns:
        0, or 2 after a mistake.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0":
        disable_progress_bar()

    def run() -> int:
        build(TeraCLI, args)
        return 0

    return guard(run)


def build(cli: type[CLI], args: ArgsType = None) -> CLI:
    """Build a command line, which runs the verb that its arguments name.

    Args:
        cli: Which one.
        args: Command line arguments; those of the process if none are given.

    Returns:
        The command line, after the run.
    """
    for message in NOISE:
        warnings.filterwarnings("ignore", message=message)
    return cli(
        LightningModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        seed_everything_default=0,
        parser_class=Parser,
        save_config_callback=RunConfig,
        # An abbreviated option is a typing mistake, not a wish.
        parser_kwargs={"allow_abbrev": False} | {c: {"allow_abbrev": False} for c in COMMANDS},
        args=expand(args) if args is None or isinstance(args, list) else args,
    )
