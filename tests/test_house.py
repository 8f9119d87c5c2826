"""What keeps the repository readable: sizes, tests beside what they test, and its words."""

import ast
import statistics
from pathlib import Path

import pytest

from tests.wording import found

# Folders of tests that belong to no package of tera_pl.
OTHERS = {
    "campaign",  # every command against damaged input
    "datamodules",
    "methods",  # methods of this repository and of PEFT, side by side
    "packaging",
    "peft_suite",
    "simulated_accelerator",
}


@pytest.fixture(scope="module")
def modules(root: Path) -> dict[str, list[str]]:
    """The lines of every module."""
    paths = [p for room in ("tera_pl", "datamodules", "tests") for p in (root / room).rglob("*.py")]
    return {str(p.relative_to(root)): p.read_text(encoding="utf-8").splitlines() for p in paths}


def test_files_have_at_most_350_lines_and_half_of_them_120(modules):
    lengths = {name: len(lines) for name, lines in modules.items() if lines}
    assert {name: length for name, length in lengths.items() if length > 350} == {}
    assert statistics.median(lengths.values()) <= 120


def test_functions_have_at_most_60_lines(modules):
    functions = [
        (f"{name}::{node.name}", node.end_lineno - node.lineno + 1)
        for name, lines in modules.items()
        for node in ast.walk(ast.parse("\n".join(lines)))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert [(name, length) for name, length in functions if length > 60] == []


def test_every_package_has_a_folder_of_tests(root):
    def folders(parent):
        return {path.parent.name for path in (root / parent).glob("*/*.py")}

    assert folders("tests") - OTHERS == folders("tera_pl")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("count trained\n    # numbers and go", [(1, "trained # numbers")]),
        ("x = 1\ndef tell_apart(whole_files):", [(2, "tell"), (2, "whole")]),
        ("a probability is none, x is None", [(1, "is none")]),
        ("there is no GPU, the path is no folder", [(1, "is no folder")]),
        ("see `tests/test_a.py::test_a_mistake_is_told`, not a mistake", [(1, "mistake")]),
        ("The wholesale Teller reports 3 trainable parameters.", []),
    ],
)
def test_words_are_found_over_lines_and_in_names(text, expected):
    assert [(line, words) for line, words, _ in found(text)] == expected
