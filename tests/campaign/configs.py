"""Configurations and overrides: values that cannot be meant, others that can, and keys unknown."""

import random
from pathlib import Path
from typing import Any

import yaml

from tera_pl.__main__ import main as call_command
from tests.attempts import CheckingCLI
from tests.campaign import shipped
from tests.campaign.case import Case
from tests.campaign.levels import call_cli
from tests.campaign.world import World

INIT = "model.init_args"
ADAPTER = f"{INIT}.adapter.init_args"
NAN, INF = float("nan"), float("inf")
# By key: what is out of range, and what is not. Any other type than that of the default is wrong.
RANGES: dict[str, tuple[list[Any], list[Any]]] = {
    f"{INIT}.schedule.warmup_steps": ([-5, 1.5, "x"], [0, 3, None]),
    f"{INIT}.schedule.name": (["x", "inverse_sqrt", None, 1], ["linear", "cosine"]),
    f"{INIT}.generation.num_beams": ([0, -1, 2.5, None], [1, 2]),
    f"{INIT}.generation.max_new_tokens": ([0, -1, 10**9, "x"], [1, 5]),
    f"{INIT}.generation.length_penalty": ([NAN, INF, "x"], [0.5, -1.0]),
    f"{INIT}.generation.no_repeat_ngram_size": ([-1, 1.5], [0, 2]),
    f"{INIT}.generation.stop": ([[""], "x", [1]], [[], ["a"]]),
    f"{INIT}.optimizer.init_args.lr": ([-1.0, 0.0, NAN, INF, "x"], [0.5]),
    f"{INIT}.optimizer.init_args.betas": ([[2.0, 0.9], [-1.0, 0.5], [0.9], 1], [[0.8, 0.9]]),
    f"{INIT}.optimizer.init_args.weight_decay": ([-1.0, NAN, "x"], [0.0, 0.1]),
    f"{INIT}.optimizer.init_args.eps": ([-1.0, NAN, "x"], [1e-6]),
    f"{INIT}.optimizer.class_path": (
        ["os.system", "torch.Tensor", "torch.optim.Nope", "x", "builtins.exec"],
        [],
    ),
    f"{INIT}.metric.class_path": (["os.getcwd", "torchmetrics.Accuracy", "torch.nn.Linear"], []),
    f"{INIT}.backbone.dtype": (["float8", "int8", None, 1], ["bfloat16", "float16"]),
    f"{INIT}.backbone.path": (["", "none/none/none", "data", None, 3], []),
    f"{INIT}.backbone.attn_implementation": (["x", "flash"], ["sdpa", "eager"]),
    f"{INIT}.generate_in_validation": ([3, "x", None], [False]),
    f"{INIT}.allow_changed": (["x", [1], [None]], [[]]),
    f"{ADAPTER}.out_modes": ([0, -1, [3, 5], "x", 2.5], [1, 2]),
    f"{ADAPTER}.in_modes": ([0, [7, 7]], [1, 2]),
    f"{ADAPTER}.dropout": ([3, -0.1, 1.0, NAN, "x"], [0.0, 0.5]),
    f"{ADAPTER}.seed": ([1.5, "x"], [0, 7]),
    f"{ADAPTER}.target_modules": ([["nope"], [], [1], "nope"], [["q_proj"], "all-linear"]),
    f"{ADAPTER}.modules_to_save": ([["nope"]], [["lm_head"]]),
    f"{ADAPTER}.task_type": (["SEQ_CLS", "x"], ["CAUSAL_LM"]),
    f"{ADAPTER}.layers_to_transform": ([[99], [-1], "x"], [[0]]),
    "data.init_args.batch_size": ([0, -1, 2.5, "x", None], [1, 4]),
    "data.init_args.eval_batch_size": ([0, -1, None], [1, 4]),
    "data.init_args.tokens_per_batch": ([0, -1], [256]),
    "data.init_args.num_workers": ([-1, 1.5, "x"], [0]),
    "data.init_args.split.size": ([-1, 10**6, "x"], [2]),
    "data.init_args.split.method": (["x", None], ["tail"]),
    "data.init_args.leaks": (["x", None], ["drop"]),
    "data.init_args.tasks": ([["x"], [], ["boolq", "boolq"]], [["openbookqa"]]),
    "data.init_args.path": (["", "none", "config.yaml", None], []),
    "data.init_args.encoding.max_length": ([0, -1, 1, "x", 10**6], [128]),
    "data.init_args.encoding.loss_on": (["x", None], ["all", "response"]),
    "data.init_args.encoding.pad_token": (["no such token", 3], ["<pad>", None]),
    "trainer.max_steps": ([-5, 0, 1.5, "x"], [1, 10]),
    "trainer.max_epochs": ([-5, 0, 1.5, "x"], [1]),
    "trainer.gradient_clip_val": ([-1, NAN, "x"], [0.5]),
    "trainer.gradient_clip_algorithm": (["x"], ["norm", "value"]),
    "trainer.accumulate_grad_batches": ([0, -1, 1.5], [2]),
    "trainer.val_check_interval": ([0, -1, 1.5, "x"], [2]),
    "trainer.check_val_every_n_epoch": ([0, -1], []),
    "trainer.limit_val_batches": ([-1, 1.5, "x"], [1, 0.5]),
    "trainer.limit_train_batches": ([-1, 0, 1.5, "x"], [2, 0.5]),
    "trainer.precision": (["x", "17", 8], ["32-true"]),
    "trainer.strategy": (["x", "fsdp"], ["auto"]),
    "trainer.accelerator": (["x", "cuda"], ["cpu"]),
    "trainer.devices": ([0, -2, "x", []], [1]),
    "trainer.log_every_n_steps": ([-1, "x"], [0, 2]),
    "trainer.num_sanity_val_steps": ([-2, "x"], [0]),
    "trainer.callbacks": ([["x"], "os.system", [{"class_path": "os.system"}]], [[], None]),
    "trainer.logger.class_path": (["os.getcwd", "x.Y", "torch.nn.Linear"], []),
    "trainer.plugins": (["os.system", "x"], [None]),
    "checkpoint.monitor": (["nope", "train/nope"], ["val/loss", "val/accuracy"]),
    "checkpoint.mode": (["up", None], ["min", "max"]),
    "checkpoint.save_top_k": ([-2, "x"], [1]),
    "ranks.every_n_validations": ([-1, "x", None], [0, 1]),
    "seed_everything": ([-1, 2**70, "x", 1.5], [0, 3]),
}


def make(rng: random.Random, folder: Path, world: World) -> Case:
    """A configuration with one change; nine in ten are not run beyond what is before weights."""
    kind = rng.choice(["shipped", "override", "ranges", "ranges", "ranges", "unknown"])
    if kind in {"shipped", "override"}:
        return _shipped(rng, folder, kind, world)
    seen: list[Any] = []
    if kind == "unknown":
        place = rng.choice(
            ["model", INIT, ADAPTER, f"{INIT}.backbone", "data.init_args", "trainer"]
        )
        key, value, expect = f"{place}.{rng.choice(['nope', 'lrr', 'Path'])}", 1, "refuse"
    else:
        key = rng.choice(sorted(RANGES))
        wrong, right = RANGES[key]
        value = rng.choice([*wrong, *right])
        expect = "refuse" if any(value is w for w in wrong) else "run"
    args = ["fit", "--config", "config.yaml"]
    if rng.random() < 0.5:
        _put(world, folder, key, value)
    else:
        text = value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True)
        args.append(f"--{key}={text.removesuffix(chr(10)).removesuffix(chr(10) + '...')}")
    # What is wrong with data is seen where they are read.
    runs = rng.random() < 0.05 or (key.startswith("data.") and expect == "refuse")
    if runs:
        args += ["--trainer.max_steps=1"] if key != "trainer.max_steps" else []

    def call(args: list[str]) -> int:
        return call_command(args) if runs else call_cli(CheckingCLI, args, seen)

    def wrong_value(work: Path) -> str | None:
        if not seen:
            return None
        found = seen[0].config.fit
        for part in key.split("."):
            found = found[part]
        return None if shipped.equal(value, shipped.plain(found)) else f"became {found!r}"

    return Case(f"{kind}: {key}: {value!r}", args, expect, wrong_value, call=call)


def _shipped(rng: random.Random, folder: Path, kind: str, world: World) -> Case:
    """Any value at any key of the shipped configurations."""
    maker = shipped.config_case if kind == "shipped" else shipped.override_case
    case = maker(rng, folder, world.llama)
    seen: list[Any] = []
    return Case(
        f"{kind}: {case.name}",
        case.args,
        wrong=lambda work: case.wrong(seen[0]),
        call=lambda args: call_cli(CheckingCLI, args, seen),
    )


def _put(world: World, folder: Path, key: str, value: Any) -> None:
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    *above, last = key.split(".")
    place = settings
    for part in above:
        place = place.setdefault(part, {})
    place[last] = value
    world.write(folder, settings)
