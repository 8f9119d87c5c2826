"""Arguments of every command: unknown, misspelt, missing, out of range, paths of another kind."""

import random
from pathlib import Path

from tests.campaign.case import Case
from tests.campaign.world import LAST, RUN, World

CONFIG = ["--config", "config.yaml"]
CKPT = ["--ckpt_path", LAST]
# A command line that would run, whose end is replaced.
WHOLE: dict[str, list[str]] = {
    "fit": CONFIG,
    "validate": [*CONFIG, *CKPT],
    "test": [*CONFIG, *CKPT],
    "predict": [*CONFIG, *CKPT],
    "export": [*CKPT, "--output", "out/model"],
    "estimate": CONFIG,
    "report": ["runs", "--output", "out"],
    "benchmark": ["--output", "out", "--tokens", "2", "--length", "2", "--rounds", "2"],
    "theory": ["--output", "out"],
    "learning_rates": ["config.yaml", "--reference", "config.yaml"],
}
TRAINER = [
    *(["--ckpt_path", path] for path in ("none.ckpt", "data", "config.yaml", "/dev/null", RUN)),
    *(["--config", path] for path in ("none.yaml", "data", LAST, "base/config.json", "victim")),
    *(["--trainer.max_step=1"], ["--trainer=1"], ["--model", "os.system"], ["--data", "x.Y"]),
    *(["--model.init_args.nope", "1"], ["--data.init_args.path=none"], ["--seed_everything", "x"]),
    *(["--trainer.logger", "os.getcwd"], ["--trainer.callbacks+", "builtins.exit"]),
    *(["--trainer.plugins", "subprocess.run"], ["--config"], ["--trainer.max_steps", ""]),
    *(["--model.init_args.backbone.path=none"], ["--trainer.strategy=x"], ["--trainer.devices=x"]),
]
WRONG: dict[str, list[list[str]]] = {
    **dict.fromkeys(("fit", "validate", "test", "predict"), TRAINER),
    "export": [
        *(["--ckpt_path", path] for path in ("none", "data", "config.yaml", "/dev/null", RUN)),
        *(["--output", path] for path in ("victim", "data", "config.yaml", LAST, "/dev/null/x")),
        *(["--backbone", path] for path in ("data", "none", "config.yaml", "victim")),
        *(["--max_shard_size", size] for size in ("x", "-1", "0", "")),
    ],
    "estimate": [
        *([f"--{name}", value] for name in ("batch", "length") for value in ("0", "-1", "x", "")),
        *(["--device_gb", value] for value in ("x", "-1", "nan")),
        *(["--config", path] for path in ("none.yaml", "data", LAST)),
        *(["--trainer.precision=x"], ["--model.init_args.backbone.path=data"]),
    ],
    "report": [["none"], ["config.yaml"], ["data"], ["--output", "config.yaml"]],
    "benchmark": [
        *(["--methods", name] for name in ("x", "")),
        *(["--length", value] for value in ("0", "1", "-4", "x")),
        *(["--tokens", value] for value in ("0", "3", "-2", "x")),
        *(["--rounds", value] for value in ("0", "-1", "x")),
        *(["--device", value] for value in ("x", "cuda:99", "meta")),
        *(["--shape", "x"], ["--dtype", "float8"], ["--measure", "x"]),
    ],
    "theory": [["--output", "config.yaml"], ["--output"]],
    "learning_rates": [
        *(["--rate", value] for value in ("x", "-1", "nan", "inf", "0")),
        *(["none.yaml"], ["data"], [LAST], ["--reference", "none.yaml"]),
    ],
}
ANY = [["--nope", "1"], ["--nope"], ["-x"], ["--outpu", "out"], ["--confi", "config.yaml"]]


def make(rng: random.Random, folder: Path, world: World) -> Case:
    """A command line that cannot be meant."""
    command = rng.choice(sorted(WHOLE))
    more = rng.choice(rng.choice([WRONG[command], WRONG[command], WRONG[command], ANY]))
    args = [*WHOLE[command], *more]
    if rng.random() < 0.1:
        # Nothing at all, or not enough: what is required is missing.
        args = WHOLE[command][2:] if command in {"export", "learning_rates"} else args
    return Case(" ".join(more), [command, *args], "refuse", writes=("runs", "out"))
