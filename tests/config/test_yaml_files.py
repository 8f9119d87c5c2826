"""YAML is read strictly: what cannot be meant is one line that names file, line and key."""

import os
from itertools import pairwise

import pytest

from tera_pl.cli import main
from tera_pl.config.yaml_files import MAX_BYTES, parse_yaml, read_yaml

BOMB = "a: &a [" + ", ".join(["x"] * 10) + "]\n"
BOMB += "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in pairwise("abcdefg"))

REFUSED = {
    "key twice": ("a: 1\nb: 2\na: 3", r"line 3: a: given twice, first in line 1"),
    "nested key twice": ("a:\n  b: 1\n  'b': 2", r"line 3: a\.b: given twice"),
    "key twice in a list": ("a:\n- b: 1\n  b: 2", r"line 3: a\.0\.b: given twice"),
    "alias that contains itself": ("a: &x {b: *x}", r"line 1: a\.b: contains itself"),
    "aliases that explode": (BOMB, "aliases make more than 100,000 values"),
    "too deep": ("a: " + "[" * 500 + "]" * 500, "nested deeper than 64 levels"),
    "far too deep": ("a: " + "[" * 200_000, "invalid YAML|nested deeper"),
    "list": ("[1, 2]", "expected a mapping of settings, found a list"),
    "text": ("fit", "expected a mapping of settings, found a single value"),
    "list as a key": ("? [a]\n: 1", "a key is a list: expected a name"),
    "object": ("a: !!python/object/apply:os.system [true]", "invalid YAML: could not determine a"),
    "two documents": ("a: 1\n---\nb: 1", "invalid YAML: .* line 2"),
    "open bracket": ("a: [", "invalid YAML: "),
    "NUL": ("a: \0", "invalid YAML: .*control characters"),
    "no number": ("a: !!float x", "invalid YAML: could not convert string to float"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_meant_is_refused_in_one_line(name):
    text, message = REFUSED[name]
    with pytest.raises(ValueError, match=f"^f.yaml.*{message}") as error:
        parse_yaml(text, "f.yaml")
    assert "\n" not in str(error.value)


def test_numbers_and_dates_are_those_of_the_command_line():
    text = "a: 1e-3\nb: 2026-01-01\nc: 1.5\nd: 3\ne: .5\nf: -1\ng: .inf\nh: 1.\ni: -2E3\nj: 1e\n"
    assert parse_yaml(text, "f") == {
        "a": 0.001,
        "b": "2026-01-01",
        "c": 1.5,
        "d": 3,
        "e": 0.5,
        "f": -1,
        "g": float("inf"),
        "h": 1.0,
        "i": -2000.0,
        "j": "1e",
    }


def test_aliases_and_merges_are_written_out():
    text = "x: &x {a: 1, b: 2}\ny:\n  <<: *x\n  b: 3\nz: [*x, *x]"
    x = {"a": 1, "b": 2}
    assert parse_yaml(text, "f") == {"x": x, "y": {"a": 1, "b": 3}, "z": [x, x]}
    assert parse_yaml("# nothing\n", "f") == {}


def test_files_that_are_none(tmp_path):
    path = tmp_path / "f.yaml"
    with pytest.raises(ValueError, match=r"cannot read .*f\.yaml: there is no such file"):
        read_yaml(path)
    with pytest.raises(ValueError, match="it is not a regular file"):
        read_yaml(tmp_path)
    os.mkfifo(path)
    with pytest.raises(ValueError, match="it is not a regular file"):
        read_yaml(path)
    path.unlink()
    path.write_bytes(b"a: \xff\xfe")
    with pytest.raises(ValueError, match=r"f\.yaml: invalid UTF-8 at byte 3"):
        read_yaml(path)
    path.write_bytes(b"a: " + b"x" * MAX_BYTES)
    with pytest.raises(ValueError, match=r"f\.yaml: larger than 1,048,576 bytes"):
        read_yaml(path)


@pytest.mark.parametrize("name", ["key twice", "alias that contains itself", "NUL"])
@pytest.mark.parametrize("as_base", [False, True])
def test_command_line_refuses_it_too(name, as_base, tmp_path, capsys):
    text, _ = REFUSED[name]
    path = tmp_path / "f.yaml"
    path.write_text(text)
    if as_base:
        path = tmp_path / "top.yaml"
        path.write_text("base: [f.yaml]\n")
    assert main(["fit", "--config", str(path), "--print_config"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert "f.yaml" in line
