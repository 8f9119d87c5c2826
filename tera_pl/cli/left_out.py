"""Settings that a configuration leaves out, and whose defaults depend on other settings.

They are added before it is parsed, so that the saved configuration has them.
"""

import inspect
import itertools
import json
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from peft import PeftConfig

from tera_pl.config.fragments import OPTIONS, has_key, is_text
from tera_pl.tasks import CausalLMTask
from tera_pl.tasks.optimizer import default_rate

TENSORBOARD = "lightning.pytorch.loggers.TensorBoardLogger"
# Without a name they write to `<save_dir>/lightning_logs`.
_NAMED = (TENSORBOARD, "lightning.pytorch.loggers.CSVLogger")
_RATE = ("init_args", "lr")


@dataclass(frozen=True)
class Added:
    """What is added to a configuration.

    Args:
        settings: Nested settings.
        rate: The learning rate and where it is from, if one is added.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    rate: str | None = None

    def arguments(self) -> list[str]:
        """Give the settings as arguments of the command line."""
        return ["--config", json.dumps(self.settings)] if self.settings else []


def run_name(args: Sequence[str]) -> str | None:
    """Name a run after its configuration.

    Args:
        args: The command line.

    Returns:
        Name of the last configuration file, without its ending; None if there is none.
    """
    # `--config=FILE` is the same as `--config FILE`.
    split = [part for argument in args for part in argument.split("=", 1)]
    found = [value for option, value in itertools.pairwise(split) if option in OPTIONS]
    files = [value for value in found if not is_text(value)]
    return Path(files[-1]).stem if files else None


def left_out(given: Any, name: str | None) -> Added:
    """Choose the learning rate and the name of a run, where the configuration has none.

    Args:
        given: What the configuration has, parsed without defaults.
        name: Name of the run.

    Returns:
        The method's rate, if the optimizer is AdamW or like it, and the name for the logger.
    """
    settings: dict[str, Any] = {}
    rate = None
    found = _rate(given.get("model"))
    if found is not None:
        value, method = found
        optimizer: dict[str, Any] = {"init_args": {"lr": value}}
        if not has_key(given, ("model", "init_args", "optimizer", "class_path")):
            optimizer["class_path"] = "torch.optim.AdamW"
        settings["model"] = {"init_args": {"optimizer": optimizer}}
        rate = f"{value:g}, the default of {method}: the configuration has none"
    if name and (logger := _logger(given.get("trainer"), name)) is not None:
        settings["trainer"] = {"logger": logger}
    return Added(settings, rate)


def _rate(model: Any) -> tuple[float, str] | None:
    """Give the rate of the method, with its name, if the configuration should have one."""
    task = _resolve(model)
    if not (inspect.isclass(task) and issubclass(task, CausalLMTask)):
        return None
    settings = model.get("init_args") or Namespace()  # type: ignore[no-untyped-call]
    optimizer = settings.get("optimizer")
    if optimizer is not None:
        cls = _resolve(optimizer)
        # The rates are those of steps whose size is the rate.
        alike = inspect.isclass(cls) and issubclass(cls, torch.optim.Adam)
        if has_key(optimizer, _RATE) or not alike:
            return None
    if "adapter" not in settings:
        return None
    adapter = settings["adapter"]
    if adapter is None:
        return default_rate(None), "full fine-tuning"
    method = _resolve(adapter)
    if not (inspect.isclass(method) and issubclass(method, PeftConfig)):
        return None
    return default_rate(method), method.__name__


def _logger(trainer: Any, name: str) -> Any:
    """Give the settings of loggers without a name, or of one where the configuration has none."""
    if not isinstance(trainer, Namespace | None):
        return None  # which the parser reports
    trainer = {} if trainer is None else trainer
    logger = trainer.get("logger")
    if logger in (None, True):
        folder = trainer.get("default_root_dir") or "runs"
        return {"class_path": TENSORBOARD, "init_args": {"save_dir": str(folder), "name": name}}
    if isinstance(logger, list) and any(map(_is_unnamed, logger)):
        # A list replaces an earlier one.
        return [_with_name(one, name) if _is_unnamed(one) else _plain(one) for one in logger]
    return {"init_args": {"name": name}} if _is_unnamed(logger) else None


def _is_unnamed(logger: Any) -> bool:
    is_one = isinstance(logger, Namespace) and logger.get("class_path") in _NAMED
    return is_one and not has_key(logger, ("init_args", "name"))


def _plain(logger: Any) -> Any:
    return logger.as_dict() if isinstance(logger, Namespace) else logger


def _with_name(logger: Namespace, name: str) -> dict[str, Any]:
    settings = logger.as_dict()
    return settings | {"init_args": settings.get("init_args", {}) | {"name": name}}


def _resolve(spec: Any) -> Any:
    """Import what a `class_path` names; None if there is none, which the parser reports."""
    path = spec.get("class_path") if isinstance(spec, Namespace) else None
    try:
        return None if path is None else pkgutil.resolve_name(path)
    except (ImportError, AttributeError, ValueError):
        return None
