"""Data files: damaged bytes, records and whole files."""

import copy
import gzip
import json
import os
import random
from pathlib import Path
from typing import Any

from datamodules import Commonsense170k
from datamodules.splitting import Split
from tera_pl.__main__ import main as call_command
from tera_pl.cli import guard
from tests.campaign.case import Case
from tests.campaign.checkpoints import flip
from tests.campaign.world import LAST, RUN, World

VALUES: list[Any] = [
    None,
    1,
    2.5,
    True,
    [],
    ["x"],
    {},
    "",
    " \n",
    "\ud800",
    "x",
    "answer9",
    "answer2",
]
FIELDS = ("instruction", "input", "output", "answer")
LABELS = {f"answer{number}" for number in range(1, 6)}


def make(rng: random.Random, folder: Path, world: World) -> Case:
    """A damaged file of training or test data."""
    split = rng.choice(["train", "test"])
    path = folder / "data" / "openbookqa" / f"{split}.json"
    kind = rng.choice(["bytes", "bytes", "record", "record", "record", "file", "harmless"])
    records = json.loads(path.read_text())
    change = {"bytes": _bytes, "record": _record, "file": _file, "harmless": _harmless}[kind]
    changed = change(rng, path, copy.deepcopy(records))
    args = ["fit" if split == "train" else "test", "--config", "config.yaml"]
    if split == "test":
        args += ["--ckpt_path", LAST]
    read = strict(path)
    expect = "run" if kind == "harmless" else "either" if valid(read) else "refuse"
    module = Commonsense170k("base", "data", tasks=["openbookqa"], split=Split(4), batch_size=2)
    # Most are read as a run reads them, without what is built before and after.
    whole = rng.random() < 0.1

    def call(args: list[str]) -> int:
        def setup() -> int:
            module.setup(args[0])
            return 0

        return guard(setup)

    def wrong(work: Path) -> str | None:
        if whole:
            return None
        stages = ("train", "val") if split == "train" else ("test",)
        prompts = [r["prompt"] for stage in stages for r in module._records[stage]]
        given = [r["instruction"] for r in read or []]
        if len(prompts) != len(given) or any(sum(g in p for p in prompts) < 1 for g in given):
            return f"{len(prompts)} prompts of {len(given)} records, or other texts"
        return None

    same = read == records or kind == "harmless"
    return Case(
        f"{kind}: {split}: {changed}",
        args + (["--trainer.max_steps=1"] if whole and split == "train" else []),
        expect,
        wrong,
        writes=("runs",) if split == "train" else (RUN,),
        oddity=None if same else "other text",
        call=call_command if whole else call,
    )


def strict(path: Path) -> Any:
    """Read a file as the standard library does, without any leniency; nothing if it cannot."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise ValueError("a key twice")
        return dict(pairs)

    def refuse(text: str) -> Any:
        raise ValueError(text)

    try:
        if path.is_symlink() or not path.is_file():
            return None
        text = path.read_bytes().decode("utf-8-sig")
        return json.loads(text, object_pairs_hook=once, parse_constant=refuse)
    except (OSError, ValueError, RecursionError):
        return None


def valid(records: Any) -> bool:
    """Whether records are what the documentation says: no reader of the project is asked."""
    if not isinstance(records, list) or not records:
        return False
    for record in records:
        if not isinstance(record, dict) or not all(isinstance(record.get(f), str) for f in FIELDS):
            return False
        if any(not record[field].strip() for field in ("instruction", "output", "answer")):
            return False
        if any("\ud800" <= char <= "\udfff" for field in FIELDS for char in record[field]):
            return False
        if record["answer"] not in LABELS:
            return False
        found = [(record["output"].find(label), label) for label in LABELS]
        first = min(((at, label) for at, label in found if at >= 0), default=None)
        if first is None or first[1] != record["answer"]:
            return False
    return True


def _bytes(rng: random.Random, path: Path, records: list[Any]) -> str:
    changed, content = flip(rng, path.read_bytes())
    path.write_bytes(content)
    return changed


def _record(rng: random.Random, path: Path, records: list[Any]) -> str:
    index = rng.randrange(len(records))
    field = rng.choice(FIELDS)
    kind = rng.choice(["value", "value", "value", "drop", "rename", "replace", "more"])
    value = rng.choice(VALUES)
    if kind == "value":
        records[index][field] = value
    elif kind == "drop":
        del records[index][field]
    elif kind == "rename":
        records[index][field.upper()] = records[index].pop(field)
    elif kind == "replace":
        records[index] = value
    else:
        records.append({**records[index], field: value})
    path.write_text(json.dumps(records))
    return f"record {index}: {kind} {field} {value!r}"


def _file(rng: random.Random, path: Path, records: list[Any]) -> str:
    kind = rng.choice(["folder", "missing", "FIFO", "device", "gzip", "list", "utf-16", "twice"])
    text = json.dumps(records)
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "FIFO":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "gzip":
        path.write_bytes(gzip.compress(text.encode()))
    elif kind == "list":
        path.write_text(rng.choice(["[]", "{}", "null", "[[]]", '{"data": []}', "[NaN]"]))
    elif kind == "utf-16":
        path.write_bytes(text.encode("utf-16"))
    elif kind == "twice":
        path.write_text(text)
        path.with_name(f"{path.stem}.json.gz").write_bytes(gzip.compress(text.encode()))
        # Two files for one split: nothing that the strict reader would see.
        path.write_text(text + "]")
    return kind


def _harmless(rng: random.Random, path: Path, records: list[Any]) -> str:
    """Written otherwise, the same records."""
    kind = rng.choice(["indent", "order", "escapes", "BOM", "more fields", "line ends"])
    text = json.dumps(records, indent=1 if kind in {"indent", "line ends"} else None)
    if kind == "order":
        text = json.dumps([dict(reversed(record.items())) for record in records])
    elif kind == "escapes":
        text = json.dumps(records).replace("W", "\\u0057")
    elif kind == "BOM":
        text = f"\ufeff{text}"
    elif kind == "more fields":
        text = json.dumps([{**record, "source": index} for index, record in enumerate(records)])
    elif kind == "line ends":
        text = text.replace("\n", "\r\n")
    path.write_bytes(text.encode())
    return kind
