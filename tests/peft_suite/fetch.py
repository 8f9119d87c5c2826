"""Fetch PEFT's own tests into the environment: `make venv` calls this.

They are not in PEFT's wheel but in its sdist, whose hash is in `requirements.lock`. The modules are
taken out of the archive; what pip wants to know of it comes from the setuptools installed here.
"""

import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

LOCK = Path(__file__).parents[2] / "requirements.lock"
# Beside the installed packages: the tests belong to that version of peft, not to a checkout.
FOLDER = Path(sys.prefix) / "share" / "peft_suite" / version("peft")


def locked_requirement(name: str) -> str:
    """The entry of a package with its hashes, as the lock has it."""
    lines = LOCK.read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"{name}=="))
    end = next(i for i in range(start, len(lines)) if not lines[i].endswith("\\"))
    return "\n".join(lines[start : end + 1]) + "\n"


def fetch() -> None:
    if (FOLDER / "peft_tests").is_dir():
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as scratch:
        requirement = Path(scratch) / "requirement.txt"
        requirement.write_text(locked_requirement("peft"))
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
        what = ["--no-deps", "--no-binary=peft", "--no-build-isolation", "--require-hashes"]
        subprocess.run([*pip, *what, "--dest", scratch, "--requirement", requirement], check=True)
        (archive,) = Path(scratch).glob("peft-*.tar.gz")
        package = Path(scratch) / "peft_tests"
        package.mkdir()
        (package / "__init__.py").touch()
        with tarfile.open(archive) as content:
            for member in content.getmembers():
                path = Path(member.name)
                if path.parent.name == "tests" and len(path.parts) == 3 and path.suffix == ".py":
                    (package / path.name).write_bytes(content.extractfile(member).read())
        package.rename(FOLDER / "peft_tests")


if __name__ == "__main__":
    fetch()
