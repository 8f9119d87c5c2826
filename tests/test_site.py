"""The documentation site builds without a warning, and its tutorial runs as it stands."""

import os
import re
import shlex
import subprocess
import sys

import pytest

from tera_pl.__main__ import main
from tests.conftest import ROOT, code_blocks

pytestmark = pytest.mark.slow

# Each fit of the tutorial takes minutes; four steps show that it works.
SHORT = ["--trainer.max_steps=4", "--trainer.val_check_interval=4"]
SMALL = ["--data.init_args.num_train=600", "--data.init_args.num_test=20"]


def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "TeraConfig" in (tmp_path / "reference" / "adapters" / "index.html").read_text()


# They need a cluster, data or weights that are not here, or hours; tests/test_docs.py checks their
# names, and tests/studies/ and tests/reporting/ the commands.
NOT_RUN = ("sbatch", "$", "tera_pl study", "tera_pl report", "tera_pl estimate", "smollm2")


def commands(text):
    """The commands of a block, one to a line, as lists of arguments."""
    for line in text.replace("\\\n", " ").splitlines():
        if line.startswith("python -m tera_pl ") and not any(word in line for word in NOT_RUN):
            yield shlex.split(line.removeprefix("python -m tera_pl "))


@pytest.mark.parametrize("page", ["docs/usage.md", "docs/quantization.md"])
def test_the_commands_of_a_how_to_page_run(page, tmp_path, monkeypatch):
    """Each export page stands on the quickstart's run, which the first of its commands makes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    ran = []
    for block in code_blocks(page, ""):
        for arguments in commands(block["text"]):
            short = SHORT + SMALL if arguments[0] in {"fit", "test"} else []
            assert main([*arguments, *short]) == 0, arguments
            ran.append(arguments[0])
    assert {"fit", "export"} <= set(ran)


def test_the_tutorial_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in code_blocks("docs/index.md"):
        if block["language"] == "yaml":
            *_, file = re.findall(r"`([\w.]+\.yaml)`", block.string[: block.start()])
            (tmp_path / file).write_text(block["text"])
        elif block["language"] == "python":
            exec(block["text"], names)
        else:
            for line in block["text"].splitlines():
                program, *arguments = shlex.split(line.removeprefix("python -m "))
                assert program == "tera_pl"
                if arguments[0] in {"fit", "test"}:
                    arguments += SHORT + ([] if "numbers.yaml" in arguments else SMALL)
                assert main(arguments) == 0, line
    runs = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert runs == ["lora", "numbers", "quickstart"]
    assert "LoRA" in (tmp_path / "report" / "report.md").read_text()
    assert names["model"].active_peft_config.peft_type == "TERA"
