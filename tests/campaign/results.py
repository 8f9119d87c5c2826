"""What runs have left: results, configurations, predictions and ranks that are damaged."""

import json
import random
from pathlib import Path

from tests.campaign.case import Case
from tests.campaign.checkpoints import arguments, flip
from tests.campaign.world import RUN, World
from tests.checkpointing.hostile import damaged_content

FILES = ["results.json"] * 6 + ["config.yaml", "config_test.yaml", "ranks.csv", "predictions.jsonl"]
FILES += ["singular_values.npz"]


def make(rng: random.Random, folder: Path, world: World) -> Case:
    """A file of a run is damaged, met by `report`, or by `export`, whose model card quotes it."""
    name = rng.choice(FILES)
    path = folder / RUN / name
    before = path.read_bytes()
    if name == "results.json" and rng.random() < 0.6:
        whole = json.loads(path.read_text())
        changed, content = next(damaged_content(whole, rng.randrange(2**32), 1))
        path.write_text(json.dumps(content))
    elif rng.random() < 0.1:
        path.unlink()
        path.mkdir()
        changed = "a folder instead"
    else:
        changed, content = flip(rng, path.read_bytes())
        path.write_bytes(content)
    exports = rng.random() < (0.5 if name == "predictions.jsonl" else 0.15)
    args = (
        arguments(rng.choice(["export", "merge"]))
        if exports
        else ["report", "runs", "--output", "out"]
    )
    case = Case(f"{name}: {changed}", args, wrong=lambda work: None if exports else shown(work))
    case.oddity = None if path.is_file() and path.read_bytes() == before else "other results"
    if name == "results.json" and parsed(path) is None:
        case.expect = "refuse"
    return case


def parsed(path: Path) -> object:
    """Read a file as JSON; nothing if it is none."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def shown(work: Path) -> str | None:
    """Whether the table has the score of the file, or the report says why the run is left out."""
    text = (work / "out/report.md").read_text()
    results = parsed(work / RUN / "results.json")
    try:
        score = results["test"]["scores"]["test/accuracy"]  # type: ignore[index]
    except (TypeError, KeyError):
        return None if RUN in text else "a run without a score is neither shown nor named"
    tables = "".join(path.read_text() for path in (work / "out").glob("*.csv"))
    if RUN in text or f"{100 * score:.1f}" in text or str(score) in tables:
        return None
    return f"the score {score} of results.json is not in the report"
