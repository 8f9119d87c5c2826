"""What the documentation names exists: links, headings, tests, files, subcommands, make targets."""

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import tera_pl
from tera_pl.config.shipped import find_config

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    ROOT / name
    for name in subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()
    if not name.startswith("docs/benchmarks/") and (ROOT / name).exists()
)  # fmt: skip
TRAINER = {"fit", "validate", "test", "predict"}
# Paths in text and in commands; placeholders and patterns have other characters.
PATH = re.compile(r"(?<![\w./*~-])(?:tests|docs|configs|tera_pl|datamodules)/[\w./-]+(?![\w*<{$])")


def test_pages_are_found():
    names = {page.relative_to(ROOT).as_posix() for page in PAGES}
    assert {"README.md", "CONTRIBUTING.md", "docs/guarantees.md", "tests/README.md"} <= names


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_exists(page):
    missing = [*_broken_links(page), *_missing_names(page.read_text())]
    assert not missing


def test_what_is_missing_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A b\n[x](nowhere.md) [y](#a-b) [z](#c) ![](no.png) [web](https://x.org)\n")
    assert list(_broken_links(page)) == ["nowhere.md", "#c", "no.png"]
    text = (
        "python -m tera_pl fit, `python -m tera_pl fly`, `tera-pl tests`, `make test`, `make tea`, "
        "`tests/test_docs.py::test_readme_is_short`, `tests/test_docs.py::test_none`, "
        "`tera_pl/quickstart.yaml`, configs/slow.yaml, configs/<name>.yaml, configs/*/a.yaml"
    )
    assert list(_missing_names(text)) == [
        "tera_pl fly",
        "tera_pl tests",
        "make tea",
        "tests/test_docs.py::test_none",
        "configs/slow.yaml",
    ]


def test_every_subcommand_is_in_the_readme():
    rows = re.findall(r"(?m)^\| (`.+?) \|", (ROOT / "README.md").read_text())
    named = {word.split()[0] for row in rows for word in re.findall(r"`([^`]+)`", row)}
    assert _subcommands() <= named


def test_map_of_the_packages_has_the_layers_of_import_linter():
    project = tomllib.loads(_read("pyproject.toml"))
    layers = project["tool"]["importlinter"]["contracts"][0]["layers"]
    packages = [set(layer.split(" | ")) - {"__main__", "errors"} for layer in layers]
    rows = re.findall(r"(?m)^ {4}([a-z_]+(?:, [a-z_]+)*) {2,}", _read("CONTRIBUTING.md"))
    assert [set(row.split(", ")) for row in rows] == [names for names in packages if names]


def test_pre_commit_runs_the_checks_of_make_lint():
    recipe = re.search(r"(?m)^lint: .*\n((?:\t.+\n)+)", (ROOT / "Makefile").read_text()).group(1)
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert [hook["entry"] for hook in hooks] == [
        line.strip().replace("$(BIN)", ".venv/bin") for line in recipe.splitlines()
    ]


def test_version_is_that_of_the_changelog():
    releases = re.findall(r"(?m)^## (\d+\.\d+\.\d+) \(\d{4}-\d\d-\d\d\)$", _read("CHANGELOG.md"))
    assert releases[0] == tera_pl.__version__


def _read(name: str) -> str:
    return (ROOT / name).read_text()


def _broken_links(page: Path) -> Iterator[str]:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        name, _, heading = link.partition("#")
        target = page.parent / name if name else page
        if re.match(r"[a-z]+:", link):
            continue
        if not target.exists() or (heading and heading not in _anchors(target.read_text())):
            yield link


def _anchors(text: str) -> set[str]:
    """The anchors of headings as GitHub makes them."""
    headings = re.findall(r"(?m)^#+ (.+)$", text)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def _missing_names(text: str) -> Iterator[str]:
    commands = _subcommands()
    for command in re.findall(r"(?:python -m tera_pl|tera-pl) ([a-z]\w*)", text):
        if command not in commands:
            yield f"tera_pl {command}"
    targets = re.findall(r"(?m)^([\w-]+):", _read("Makefile"))
    for target in re.findall(r"(?:`|^ {4}|run: )make ([\w-]+)", text, re.MULTILINE):
        if target not in targets:
            yield f"make {target}"
    for match in PATH.finditer(text):
        path = ROOT / match.group().rstrip(".")
        test = re.match(r"::(\w+)", text[match.end() :])
        if not path.exists() and not find_config(match.group()):
            yield match.group()
        elif test and test.group(1) not in _functions(path):
            yield match.group() + test.group()


def _subcommands() -> set[str]:
    files = (ROOT / "tera_pl" / "commands").glob("*.py")
    return TRAINER | {file.stem for file in files if "main" in _functions(file)}


def _functions(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_text()).body if hasattr(node, "name")}
