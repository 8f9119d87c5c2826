"""LightningCLI with the standard callbacks, strict checks and checkpoints looked up by name."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from jsonargparse import Namespace
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import LearningRateMonitor, ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info

from tera_pl.allocator import keep_freed_memory
from tera_pl.callbacks import BestCheckpoint, LossTrend, ProgressLine, Terminal
from tera_pl.checkpointing.checkpoint_io import AtomicCheckpointIO
from tera_pl.checkpointing.checkpoint_paths import KEYWORDS, find_checkpoint
from tera_pl.checkpointing.resume import keep_metrics, number_together, place_loggers, run_of
from tera_pl.checkpointing.run_directory import LOCAL, place_run
from tera_pl.cli.help_texts import set_titles
from tera_pl.cli.left_out import Added, left_out, run_name
from tera_pl.cli.standard_callbacks import add_standard_callbacks
from tera_pl.cli.trainer_settings import check_callbacks, check_trainer
from tera_pl.config.construction import Builder, first_failure, user_errors
from tera_pl.config.fragments import empty_mappings, expand, has_key
from tera_pl.distributed.strategy import prepare_strategy
from tera_pl.errors import UserError
from tera_pl.private_api.lightning import build_with_hyperparameters

MODULES: dict[Literal["model", "data"], type] = {
    "model": LightningModule,
    "data": LightningDataModule,
}


class TeraCLI(LightningCLI):
    """LightningCLI whose standard callbacks have keys of their own.

    A list in a later YAML file replaces an earlier one. The callbacks that every run needs are
    therefore not in `trainer.callbacks`: each is configured by its key in `STANDARD_CALLBACKS`, and
    `trainer.callbacks` adds to them.
    """

    quiet = False
    # Settings that the configuration leaves out.
    added = Added()
    _dev_folder: TemporaryDirectory | None = None

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add standard callbacks and titles of the help; link the tokenizer to the backbone."""
        add_standard_callbacks(parser)
        set_titles(parser)
        backbone = "model.init_args.backbone"
        parser.link_arguments(f"{backbone}.path", "data.init_args.tokenizer")
        parser.link_arguments(f"{backbone}.revision", "data.init_args.tokenizer_revision")
        parser.link_arguments(f"{backbone}.gguf_file", "data.init_args.tokenizer_gguf_file")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Expand `base`, add what the configuration leaves out, and refuse unknown empty keys.

        jsonargparse ignores a key with an empty mapping, known or not.
        """
        if isinstance(args, list):
            name = run_name(args)
            args = expand(args)
            plain = [argument for argument in args if not argument.startswith("--print_config")]
            if paths := empty_mappings(args):
                config = parser.parse_args(plain)
                given = config.get(config.subcommand)
                if unknown := [".".join(path) for path in paths if not has_key(given, path)]:
                    raise UserError(f"Option {unknown[0]!r} is not accepted: there is no such key")
            config = parser.parse_args(plain, defaults=False)
            self.added = left_out(config.get(config.subcommand), name)
            args = [*args, *self.added.arguments()]
        super().parse_arguments(parser, args)

    def _parse_ckpt_path(self) -> None:
        """Resolve `last` and `best`, and leave all settings as they are.

        LightningCLI lets hyperparameters stored in a checkpoint override the configuration. Here a
        checkpoint made with other settings is an error, raised when it is loaded.
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
        build: Callable[..., Any] = _call
        for key, base in MODULES.items():
            if issubclass(cls, base):
                build = build_with_hyperparameters(self, key, applied_instantiation_links)
        return self._builder(build, cls, *args, **kwargs)

    def instantiate_classes(self) -> None:
        """Build task, datamodule and trainer."""
        self.build_objects()
        self.trainer = self.instantiate_trainer()

    def build_objects(self) -> None:
        """Build every object but the trainer; none of them reads weights or data yet.

        Raises:
            UserError: If one cannot be built.
        """
        # A copy: the saved configuration must not name the version of a resumed run.
        complete = self.config.clone()
        config = complete[complete.subcommand]
        run, trainer = run_of(config.get("ckpt_path")), config["trainer"]
        if isinstance(trainer, Namespace):
            given = trainer["logger"]
            trainer["logger"] = place_loggers(given, run) if run else number_together(given)
        self._builder = Builder(config)
        with first_failure(config):
            self.config_init = self.parser.instantiate(
                complete, instantiators=[(self._build, object, True)]
            )
        self.datamodule = self._built("data")
        self.model = self._built("model")

    def _built(self, key: str) -> Any:
        """Give the object that was built of a key of the subcommand."""
        return self.config_init[self.config.subcommand].get(key)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer; a run from a checkpoint uses the run directory of the checkpoint."""
        run = run_of(self.config[self.config.subcommand].get("ckpt_path"))
        if run:
            given = self._built("trainer.logger")
            keep_metrics(given if isinstance(given, list) else [given])
            self.save_config_kwargs = {
                "config_filename": f"config_{self.subcommand}.yaml",
                "overwrite": True,
            }
        kwargs["default_root_dir"] = self._root_folder(run)
        kwargs["plugins"] = _with_checkpoint_io(self._built("trainer.plugins"))
        kwargs["strategy"] = prepare_strategy(self._built("trainer.strategy"))
        check_trainer(self._built("trainer"), str(self.subcommand))
        with user_errors("trainer"):
            trainer = super().instantiate_trainer(**kwargs)
        if isinstance(trainer.accelerator, CPUAccelerator):
            keep_freed_memory()
        check_callbacks(trainer.callbacks)  # type: ignore[attr-defined]
        self._check_monitors(trainer)
        return trainer

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        """Add what is printed; leave out callbacks that Lightning refuses with these settings."""
        if config["logger"] in (False, []):
            callbacks = [c for c in callbacks if not isinstance(c, LearningRateMonitor)]
        if config["enable_checkpointing"] is False:
            callbacks = [c for c in callbacks if not isinstance(c, BestCheckpoint)]
        self._terminal = Terminal(quiet=self.quiet, rate=self.added.rate)
        callbacks = [*callbacks, LossTrend(), self._terminal]
        if self.quiet:
            config["enable_progress_bar"] = False
        given = config["callbacks"]
        given = given if isinstance(given, list) else [given]
        own = any(isinstance(callback, ProgressBar) for callback in given)
        if config["enable_progress_bar"] is not False and not own:
            callbacks.append(ProgressLine())
        return super()._instantiate_trainer(config, callbacks)

    def validate(self, *, verbose: bool = True, **kwargs: Any) -> None:
        """Print the scores rounded, and not as Lightning does."""
        self._terminal.scores = verbose
        self.trainer.validate(**kwargs, verbose=False)

    def test(self, *, verbose: bool = True, **kwargs: Any) -> None:
        """Print the scores rounded, and not as Lightning does."""
        self._terminal.scores = verbose
        self.trainer.test(**kwargs, verbose=False)

    def _root_folder(self, run: Path | None) -> Path:
        """Choose the folder of all files that are not in a logger's directory."""
        trainer = self._built("trainer")
        if trainer["fast_dev_run"]:
            self._dev_folder = TemporaryDirectory(prefix="tera_pl-fast_dev_run-")
            return Path(self._dev_folder.name)
        return run or place_run(trainer["logger"], trainer["default_root_dir"])

    def _run_subcommand(self, subcommand: str) -> None:
        """Run it, and remove the temporary folder of a development run afterwards."""
        self._start_services()
        with self._dev_folder or nullcontext():
            super()._run_subcommand(subcommand)

    def _start_services(self) -> None:
        """Refuse a logger whose service does not take the run, as without a login.

        Lightning would start them a little later, in the middle of its own code.
        """
        for logger in self.trainer.loggers:
            if not isinstance(logger, LOCAL):
                with user_errors(f"trainer.logger ({type(logger).__name__})"):
                    getattr(logger, "experiment", None)

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


class ConfigurationCLI(TeraCLI):
    """Builds the task and datamodule of `fit`, but no trainer, which needs the device."""

    trainer_settings: dict[str, Any]

    def instantiate_classes(self) -> None:
        """Build task and datamodule."""
        self.build_objects()
        self.trainer_settings = self.config[self.config.subcommand]["trainer"].as_dict()

    def _run_subcommand(self, subcommand: str) -> None:
        """Run nothing."""


def _call(cls: type, *args: Any, **kwargs: Any) -> Any:
    return cls(*args, **kwargs)


def _with_checkpoint_io(plugins: Any) -> list[Any]:
    """Add `AtomicCheckpointIO`, unless the configuration names another CheckpointIO."""
    given = plugins if isinstance(plugins, list) else [] if plugins is None else [plugins]
    if any(isinstance(plugin, CheckpointIO) for plugin in given):
        return given
    return [*given, AtomicCheckpointIO()]
