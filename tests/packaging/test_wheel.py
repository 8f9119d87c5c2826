"""The wheel, installed beside what `pip install tera-pl` would install: no extra, no network.

The environment has a link to every file of the packages that the wheel requires.
"""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tera_pl.extras import EXTRAS
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

QUICKSTART = "tera_pl/quickstart.yaml"
SHORT = ["--trainer.max_steps=4", "--trainer.val_check_interval=4"]
SHORT += ["--data.init_args.num_train=600", "--data.init_args.num_test=20"]


def required() -> dict[str, importlib.metadata.Distribution]:
    """The distributions that this package requires without an extra, by canonical name."""
    found: dict[str, importlib.metadata.Distribution] = {}
    seen: set[tuple[str, str]] = set()
    wanted = [(Requirement(line), "") for line in importlib.metadata.requires("tera-pl")]
    while wanted:
        requirement, extra = wanted.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        found.setdefault(name, importlib.metadata.distribution(requirement.name))
        for inner in ("", *requirement.extras):
            if (name, inner) not in seen:
                seen.add((name, inner))
                wanted += [(Requirement(line), inner) for line in found[name].requires or ()]
    return found


def link(distribution: importlib.metadata.Distribution, folder: Path) -> None:
    """Link what a distribution has at the top of site-packages."""
    site = Path(distribution.locate_file(""))
    tops = {file.parts[0] for file in distribution.files if file.parts[0] not in ("..", "bin")}
    for top in tops - {"__pycache__"}:
        if (site / top).exists() and not (folder / top).exists():
            (folder / top).symlink_to(site / top)


class Clean:
    """An environment, and an empty folder to run commands in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "work"
        self.folder.mkdir()
        self.bin = folder / "venv" / "bin"
        kept = ("HOME", "LANG", "TMPDIR")
        self.environment = {key: os.environ[key] for key in kept if key in os.environ} | {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }

    def run(self, *command: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            check=False,
            capture_output=True,
            text=True,
        )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def clean(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder / "venv", symlinks=True)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    for distribution in required().values():
        link(distribution, site)
    # Without --no-deps: pip checks that every requirement is met.
    command = [sys.executable, "-m", "pip", "--python", str(folder / "venv" / "bin" / "python")]
    command += ["install", "--no-index", "--quiet", "--disable-pip-version-check", str(wheel)]
    subprocess.run(command, check=True, capture_output=True, cwd=folder)
    return Clean(folder)


@pytest.fixture(scope="module")
def trained(clean):
    """The run directory of a short quickstart from an empty folder."""
    done = clean.run("tera-pl", "fit", "--config", QUICKSTART, *SHORT)
    assert done.returncode == 0, done.stderr
    return clean.folder / "runs" / "quickstart" / "version_0"


def test_wheel_has_the_packages_and_the_configurations_and_nothing_else(wheel):
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "tera_pl", "datamodules", "configs"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    moved = {re.sub("^configs/", "tera_pl/shipped_configs/", name) for name in listed}
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == moved


def test_no_package_of_an_extra_and_nothing_of_the_repository_is_importable(clean):
    code = (
        "import sys, importlib.util, tera_pl, datamodules\n"
        "print(*[n for n in sys.argv[1:] if importlib.util.find_spec(n)])\n"
        "print(tera_pl.__file__)"
    )
    modules = [module for modules in EXTRAS.values() for module in modules]
    done = clean.run("python", "-c", code, *modules, "configs", "tests")
    found, place = done.stdout.splitlines()
    assert found == ""
    assert Path(place).is_relative_to(clean.bin.parent)


def test_quickstart_fits_and_tests_from_an_empty_folder(clean, trained):
    assert not (clean.folder / "datamodules").exists()
    config = str(trained / "config.yaml")
    # Names, not paths of this environment: the run can be read elsewhere.
    settings = yaml.safe_load((trained / "config.yaml").read_text())
    backbone = settings["model"]["init_args"]["backbone"]
    assert backbone["path"] == "datamodules/miniworld/base"
    assert settings["trainer"]["max_steps"] == 4
    done = clean.run(
        "tera-pl", "test", "--config", config, "--ckpt_path", str(trained / "checkpoints/best.ckpt")
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((trained / "results.json").read_text())
    assert results["fit"]["scores"].keys()
    assert "test/accuracy" in results["test"]["scores"]
    # Ranks are logged without the figure, which needs an extra.
    assert (trained / "ranks.csv").is_file()


def test_export_from_an_empty_folder(clean, trained):
    checkpoint = str(trained / "checkpoints" / "best.ckpt")
    done = clean.run("tera-pl", "export", "--ckpt_path", checkpoint, "--output", "adapter")
    assert done.returncode == 0, done.stderr
    adapter = json.loads((clean.folder / "adapter" / "adapter_config.json").read_text())
    # Plain PEFT finds the base from any folder.
    assert Path(adapter["base_model_name_or_path"]).is_absolute()


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        (["report", "runs", "--output", "report"], "report"),
        (["fit", "--config", "tera_pl/examples/convai2_stories260k.yaml"], "text"),
    ],
)
def test_a_command_without_its_extra_is_one_line(clean, command, extra):
    done = clean.run("tera-pl", *command)
    errors = [line for line in done.stderr.splitlines() if "error" in line.lower()]
    assert done.returncode == 2
    assert len(errors) == 1
    assert f'pip install "tera-pl[{extra}]"' in errors[0]
    assert "Traceback" not in done.stderr
