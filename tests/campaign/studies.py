"""Files of studies: every key and value that they know, changed."""

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from tera_pl.__main__ import main as call_command
from tera_pl.studies import comparison
from tests.campaign.case import Case
from tests.campaign.checkpoints import flip
from tests.campaign.world import STUDY, World

VALUES: list[Any] = [None, True, -1, 0, "", "x", [], {}, [[]], [None], [-1.0], [0.1, 0.1], ["a"]]
VALUES += ["/", ".", "victim", "adapter", float("nan"), [float("nan")], [-(2**40)], 1e400]
NAMES = ["../victim", "/tmp/x", ".", "", "a/b", "table.md", " ", "x" * 300, "one\n", 7, None, True]
# Where any value is a setting of a run, which `fit` refuses in its turn.
FREE = ("set", "grid")


def make(rng: random.Random, folder: Path, world: World) -> Case:
    """A study with one thing changed; its runs are not run."""
    kind = rng.choice(["value", "value", "value", "key", "name", "drop", "bytes", "arguments"])
    content = copy.deepcopy(STUDY)
    args = ["study", "--config", "study.yaml"]
    expect = "either"
    if kind == "bytes":
        changed, damaged = flip(rng, (folder / "study.yaml").read_bytes())
        (folder / "study.yaml").write_bytes(damaged)
    elif kind == "arguments":
        more = rng.choice(ARGUMENTS)
        args, changed, expect = [*args, *more], " ".join(more), "refuse"
    else:
        changed, expect = _change(rng, kind, content)
        (folder / "study.yaml").write_text(yaml.safe_dump(content))
    ran: list[Any] = []

    def finish(run: Any, processes: Any, *, test: bool, is_hopeless: Any) -> dict[str, Any]:
        ran.append(run)
        return json.loads(json.dumps(DONE))

    def call(args: list[str]) -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(comparison, "finish", finish)
            return call_command(args)

    def wrong(work: Path) -> str | None:
        given = yaml.safe_load((work / "study.yaml").read_text())
        rates = {lr for e in given["entries"].values() for lr in e.get("learning_rates") or []}
        rates |= set(given["learning_rates"])
        used = {run.settings["model"]["init_args"]["optimizer"]["init_args"]["lr"] for run in ran}
        seeds = {run.settings["seed_everything"] for run in ran}
        if not used <= rates or seeds != set(given["seeds"]):
            return f"ran rates {used} and seeds {seeds} of {rates} and {given['seeds']}"
        return None

    # A name is that of a folder in the output, whatever the output is called.
    return Case(f"{kind}: {changed}", args, expect, wrong, writes=("out", "x"), call=call)


ARGUMENTS = [
    *(["--jobs", value] for value in ("0", "-1", "x", "1.5", "")),
    *(["--shard", value] for value in ("0/2", "3/2", "1", "x/2", "1/0", "-1/2", "1/2/3", "")),
    *(["--confi", "x"], ["--config"], ["more"], ["--output", "victim"], ["--config", "victim"]),
    *(["--config", "none.yaml"], ["--config", "base/model.safetensors"], ["--jobs"]),
]
DONE = {
    "fit": {
        "scores": {"val/loss": 1.0},
        "resources": {
            "trained": 1,
            "stored_bytes": 4,
            "train_seconds": 1.0,
            "peak_memory_bytes": 1,
        },
    },
    "test": {"scores": {"test/accuracy": 0.5, "test/loss": 1.0}},
}


def _change(rng: random.Random, kind: str, content: dict[str, Any]) -> tuple[str, str]:
    entries = content["entries"]
    if kind == "name":
        name = rng.choice(NAMES)
        entries[name] = entries.pop("one")
        return f"entry {name!r}", "refuse"
    place = rng.choice([content, content, entries["one"], entries["two"]])
    key = rng.choice(sorted(place))
    if kind == "key":
        place[key[:-1]] = place.pop(key)
        return f"{key[:-1]} for {key}", "refuse"
    if kind == "drop":
        del place[key]
        optional = key in {"set", "grid", "seed_keys", "learning_rates"} and place is not content
        return f"without {key}", "run" if optional else "refuse"
    value = rng.choice(VALUES)
    place[key] = value
    return f"{key}: {value!r}", "either" if fits(key, value, place is content) else "refuse"


def fits(key: str, value: Any, top: bool) -> bool:
    """Whether a value could be meant, by the documentation of the fields alone."""
    if key in {"output", "score", "config"}:
        return isinstance(value, str) and value not in {"", "/", "."}
    if key == "learning_rates" and value is None:
        return not top
    if key in {"entries", "set", "grid"}:
        return value == {} and key != "entries"
    return key == "seed_keys" and value == []
