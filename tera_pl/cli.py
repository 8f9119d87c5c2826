"""The command line: LightningCLI with the standard callbacks and one-line errors."""

import os
import sys
import threading
import time
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
from tera_pl.callbacks.run_folder import RunConfig, place_run
from tera_pl.checkpoint_io import WholeCheckpointIO
from tera_pl.checkpoint_paths import KEYWORDS, find_checkpoint
from tera_pl.construction import Builder, first_failure, user_errors
from tera_pl.errors import UserError
from tera_pl.layering import empty_mappings, expand, has_key
from tera_pl.mistakes import Parser, is_mistake
from tera_pl.resumed import keep_metrics, place_loggers, run_of
from tera_pl.sharded_strategy import adopt
from tera_pl.stopped import DISK, RunStoppedError, describe_disk
from tera_pl.trainer_settings import check_callbacks, check_trainer

# Warnings about the inside of a library, or about what is meant so.
NOISE = (
    ".*does not have many workers.*",
    ".*treespec, LeafSpec.*",
    ".*gradient_checkpointing.* is deprecated.*",
    ".*args parameter is intended to run from within Python.*",
)
MODULES = {"model": LightningModule, "data": LightningDataModule}
COMMANDS = ("fit", "validate", "test", "predict")
# How long a process waits before it tells what the first of all may be telling.
SECONDS_TO_TELL = 10
INTERRUPTED = 130  # as shells have it: 128 and the number of SIGINT

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
        kwargs["strategy"] = adopt(self._get(self.config_init, "trainer.strategy"))
        check_trainer(self._get(self.config_init, "trainer"))
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
    return [*given, WholeCheckpointIO()]


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


def guard(run: Callable[[], int]) -> int:
    """Run something; tell a mistake in arguments, configuration or data in one line on stderr.

    Args:
        run: What to run.

    Returns:
        What it returns, 2 after a mistake, 1 if the run was stopped, or 130 if it was interrupted
        before it could stop in order. Set `TERA_PL_DEBUG=1` to see the traceback.
    """
    parent = os.getppid()
    before = threading.excepthook
    # TensorBoard's thread; the next value that is logged raises the same in this one.
    threading.excepthook = lambda args: None if _is_disk(args.exc_value) else before(args)
    try:
        return run()
    except RunStoppedError as error:
        if os.environ.get("TERA_PL_DEBUG"):
            raise
        return _tell("stopped", str(error), 1, parent)
    except OSError as error:
        if os.environ.get("TERA_PL_DEBUG") or not _is_disk(error):
            raise
        return _tell("stopped", _describe_stop(error), 1, parent)
    except Exception as error:
        if os.environ.get("TERA_PL_DEBUG") or not is_mistake(error):
            raise
        return _tell("error", str(error), 2, parent)
    except (KeyboardInterrupt, SystemExit) as error:
        # Lightning makes an exit of an interrupt.
        cause = error if isinstance(error, KeyboardInterrupt) else error.__context__
        if os.environ.get("TERA_PL_DEBUG") or not isinstance(cause, KeyboardInterrupt):
            raise
        notes = getattr(cause, "__notes__", ())
        return _tell("stopped", "; ".join(["interrupted", *notes]), INTERRUPTED, parent)
    finally:
        threading.excepthook = before


def _describe_stop(error: BaseException) -> str:
    """Tell what stopped the run first: closing TensorBoard on a full disk fails once more."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, RunStoppedError):
            return str(cause)
        # The notes are those of `Interruption`: how to go on.
        if isinstance(cause, OSError) and hasattr(cause, "__notes__"):
            return "; ".join([describe_disk(cause), *cause.__notes__])
        cause = cause.__context__
    assert isinstance(error, OSError)
    return describe_disk(error)


def _is_disk(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno in DISK


def _tell(what: str, message: str, code: int, parent: int) -> int:
    """Write one line; each process of several has its own, for another may have met no error."""
    rank = os.environ.get("LOCAL_RANK", "0")
    if rank != "0" and _ends(parent):
        return code
    process = "" if rank == "0" else f" (process {rank})"
    sys.stderr.write(f"{what}{process}: {' '.join(message.split())}\n")
    return code


def _ends(parent: int) -> bool:
    """Wait for the process that started this one: if it ends of itself, it has told the same."""
    end = time.monotonic() + SECONDS_TO_TELL
    while time.monotonic() < end and os.getppid() == parent:
        time.sleep(0.05)
    return os.getppid() != parent
