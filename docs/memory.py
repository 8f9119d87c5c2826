"""Print the table of memory.md: python docs/memory.py LLAMA2_FOLDER LLAMA3_FOLDER."""

import io
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import yaml

from tera_pl.commands import estimate

CONFIGS = Path(__file__).parent.parent / "configs"
KEY = "--model.init_args.backbone"
HEADER = (
    "| configuration | step | generation | gradient checkpointing | step with it |",
    "|---|---|---|---|---|",
)


def main(folders: dict[str, str]) -> None:
    """Print a row for every configuration of a Llama.

    Args:
        folders: By the name of a backbone, a folder that holds its `config.json`.
    """
    for line in HEADER:
        sys.stdout.write(f"{line}\n")
    for path in sorted(CONFIGS.glob("*/llama*/*.yaml")):
        if path.stem.startswith("study_"):
            continue
        folder = folders[path.parent.name]
        kinds = (False, True) if is_on(path) else (False,)
        found = [run_estimate(path, folder, checkpointing=kind) for kind in kinds]
        sys.stdout.write(f"{as_row(path, found)}\n")
        sys.stdout.flush()


def is_on(path: Path) -> bool:
    """Check whether a configuration turns gradient checkpointing on."""
    given = yaml.safe_load(path.read_text())["model"]["init_args"]
    return bool(given.get("backbone", {}).get("gradient_checkpointing", False))


def run_estimate(path: Path, folder: str, *, checkpointing: bool) -> dict[str, Any]:
    """Run `python -m tera_pl estimate --config PATH --json` in this process."""
    written = io.StringIO()
    with redirect_stdout(written):
        estimate.main(
            [
                f"--config={path}",
                "--json",
                f"{KEY}.path={folder}",
                f"{KEY}.gradient_checkpointing={str(checkpointing).lower()}",
            ]
        )
    found: dict[str, Any] = json.loads(written.getvalue())
    return found


def as_row(path: Path, found: list[dict[str, Any]]) -> str:
    """Give a configuration's row.

    Args:
        path: The configuration.
        found: What `estimate` gave, without gradient checkpointing and, if it is on, with it.

    Returns:
        A row in Markdown, with GB (10^9 bytes).
    """
    steps = [f"{each['memory_bytes']['total'] / 1e9:.1f}" for each in found]
    generation = f"{found[0]['validation']['memory_bytes']['total'] / 1e9:.1f}"
    on = len(found) > 1
    name = path.relative_to(CONFIGS).with_suffix("")
    cells = [str(name), steps[0], generation, "on" if on else "off", steps[1] if on else ""]
    return f"| {' | '.join(cells)} |".replace("|  |", "| |")


if __name__ == "__main__":
    main({"llama2_7b": sys.argv[1], "llama3_8b": sys.argv[2]})
