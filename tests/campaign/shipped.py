"""Any value at any key of the shipped configurations, and a key of them misspelt or taken out."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.config.composition import compose
from tests.config.test_shipped_configs import CONFIGS, PROTOCOLS, items
from tests.conftest import ROOT

MINIWORLD = ROOT / "datamodules" / "miniworld" / "base"
PATH = ("model", "init_args", "backbone", "path")
VALUES: list[Any] = [None, True, False, -1, 0, 1, 7, 2.5, -1e30, math.nan, math.inf, 2**70]
VALUES += ["", "x", "tera_pl", "none.yaml", "0", "1e3", "${x}", "{instruction}", "null", "None"]
VALUES += ["\u2028", "\ud7ff", "a\nb", "!!python/object:os.system", "*", "os.system"]
VALUES += [[], ["x"], [1, 2], [[]], [None], {}, {"x": 1}]
VALUES += [{"class_path": name} for name in ("x.Y", "torch.Tensor", "os.getcwd", "builtins.exit")]


@dataclass
class Case:
    """A command line and what may come of it.

    Args:
        name: What was done, for whoever reads a failure.
        args: The arguments.
        wrong: Given the command line that was accepted, tells what is wrong with that, or nothing.
    """

    name: str
    args: list[str]
    wrong: Callable[[Any], str | None]


def config_case(generator: random.Random, folder: Path, base: Path) -> Case:
    """A shipped configuration with one thing changed."""
    source = generator.choice([*CONFIGS, *PROTOCOLS])
    config = compose(source)
    kind, keys, value = change(config, generator)
    if source in PROTOCOLS:
        config["base"] = [str(ROOT / "configs" / source.parent.name / "llama3_8b" / "tera.yaml")]
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config, allow_unicode=True))
    args = ["fit", "--config", str(path)]
    args += unless_changed(keys, base if "llama" in str(source) else MINIWORLD)

    def wrong(cli: Any) -> str | None:
        found = cli.config.fit
        if kind in {"misspell", "add"} and "modes_pattern" not in keys:
            return "an unknown key is accepted"
        if kind != "value" or value is None:
            return None
        for key in keys:
            found = found[key]
        return None if equal(value, plain(found)) else f"it became {found!r}"

    return Case(f"{source.name}, {kind} {keys}: {value!r}", args, wrong)


def unless_changed(keys: tuple[str, ...], base: Path) -> list[str]:
    """Give what is needed to run here: a base that is there, and the CPU."""
    given = {PATH: str(base), ("trainer", "accelerator"): "cpu"}
    kept = {key: value for key, value in given.items() if key[: len(keys)] != keys}
    return [f"--{'.'.join(key)}={value}" for key, value in kept.items()]


def override_case(generator: random.Random, folder: Path, base: Path) -> Case:
    """One value of the quick start, given on the command line."""
    path = ROOT / "configs" / "quickstart.yaml"
    keys = generator.choice(OVERRIDES)
    value = generator.choice(VALUES)
    text = value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True)
    text = text.removesuffix("\n").removesuffix("\n...")
    args = ["fit", "--config", str(path), *unless_changed(tuple(keys.split(".")), MINIWORLD)]
    args.append(f"--{keys}={text}")

    def wrong(cli: Any) -> str | None:
        found = cli.config.fit
        for key in keys.split("."):
            found = found[key]
        given = yaml.safe_load(text) if text in {"null", "None"} else value
        same = equal(given, plain(found)) or str(found) == text
        return None if same or (text == "" and not found) else f"it became {found!r}"

    return Case(f"quickstart --{keys}={text!r}", args, wrong)


OVERRIDES = [
    *(f"model.init_args.optimizer.init_args.{key}" for key in ("lr", "betas", "weight_decay")),
    *(f"model.init_args.schedule.{key}" for key in ("name", "warmup_steps")),
    *(f"model.init_args.generation.{key}" for key in ("max_new_tokens", "num_beams", "stop")),
    *(f"model.init_args.backbone.{key}" for key in ("dtype", "attn_implementation", "revision")),
    *(f"model.init_args.adapter.init_args.{key}" for key in ("out_modes", "dropout", "seed")),
    *(f"data.init_args.{key}" for key in ("batch_size", "tokens_per_batch", "num_workers")),
    *(f"data.init_args.encoding.{key}" for key in ("max_length", "pad_token", "loss_on")),
    *(f"trainer.{key}" for key in ("max_steps", "max_epochs", "gradient_clip_val", "precision")),
    *(f"trainer.{key}" for key in ("accumulate_grad_batches", "val_check_interval", "strategy")),
    *(f"trainer.{key}" for key in ("accelerator", "limit_val_batches", "callbacks", "logger")),
    *("checkpoint.monitor", "checkpoint.save_top_k", "ranks.every_n_validations"),
    "seed_everything",
]


def change(config: dict[str, Any], generator: random.Random) -> tuple[str, Any, Any]:
    """Change one value, misspell one key, add one or take one out; give the key and the value."""
    keys = generator.choice([keys for keys, _ in items(config)])
    depth = generator.randrange(1, len(keys) + 1)
    *parents, last = keys[:depth]
    place = config
    for key in parents:
        place = place[key]
    kind = generator.choice(["value", "value", "value", "misspell", "add", "remove"])
    value = generator.choice(VALUES)
    if kind == "value":
        place[last] = value
    elif kind == "misspell":
        old, last = last, last[:-1] or "x"
        place[last] = place.pop(old)
    elif kind == "add":
        last = "unknown_key"
        place[last] = value
    else:
        del place[last]
    return kind, (*parents, last), value if kind != "misspell" else None


def plain(value: Any) -> Any:
    """Give the dictionaries of a parsed configuration."""
    return value.as_dict() if hasattr(value, "as_dict") else value


def equal(given: Any, found: Any) -> bool:
    """Whether a value is what was given; an object may have got its defaults."""
    if isinstance(given, dict) and isinstance(found, dict):
        return all(key in found and equal(value, found[key]) for key, value in given.items())
    if isinstance(found, dict):
        return given == found.get("class_path")
    if isinstance(given, list) and isinstance(found, list | tuple):
        return len(given) == len(found) and all(map(equal, given, found))
    # Text that reads as a number may be one: YAML knows no other way to write 1e3.
    same = given == found or str(given) == str(found)
    return same or (number(given) is not None and number(given) == number(found))


def number(value: Any) -> float | None:
    """Read a number, if it is one."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None
