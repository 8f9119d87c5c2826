"""Broken files raise one line that names file, record and field."""

import gzip
import json
import os
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules import ConvAI2, Math10k
from datamodules.errors import UserError
from datamodules.files import find_file
from datamodules.records import get_text, read_json
from tests.soak import more

GOOD = [{"a": "x"}, {"a": "y"}]


def write(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.json", json.dumps(GOOD)),
        ("a.jsonl", "\n".join(json.dumps(item) for item in GOOD) + "\n\n"),
        ("a.json.gz", gzip.compress(json.dumps(GOOD).encode(), mtime=0)),
        ("a.jsonl.gz", gzip.compress("\n".join(json.dumps(i) for i in GOOD).encode(), mtime=0)),
        ("bom.json", b"\xef\xbb\xbf" + json.dumps(GOOD).encode()),
        ("crlf.jsonl", "\r\n".join(json.dumps(item) for item in GOOD)),
        ("crlf.json", json.dumps(GOOD, indent=1).replace("\n", "\r\n")),
        ("no_end.jsonl", "\n".join(json.dumps(item) for item in GOOD)),
    ],
)
def test_formats_that_are_read(name, data, tmp_path):
    assert read_json(write(tmp_path / name, data)) == GOOD


def test_a_line_of_ten_megabytes_is_read(tmp_path):
    text = "x" * 10_000_000
    assert read_json(write(tmp_path / "a.jsonl", json.dumps({"a": text})))[0]["a"] == text


def test_only_line_feeds_end_a_line(tmp_path):
    """Characters that Unicode calls line ends are text inside a JSON string."""
    item = {"a": "one\u2028two\u0085three\x7f"}
    text = json.dumps(item, ensure_ascii=False)
    assert read_json(write(tmp_path / "a.jsonl", f"{text}\n{text}")) == [item, item]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.json", "", "line 1: no valid JSON"),
        ("a.json", "[{]", "line 1: no valid JSON"),
        ("a.json", '[{"a": "x"},\n{"a"}]', "line 2: no valid JSON"),
        ("a.jsonl", '{"a": "x"}\n{"a":\n', "line 2: no valid JSON"),
        ("a.json", "[]", "holds no records"),
        ("a.jsonl", "\n", "holds no records"),
        ("a.json", '{"a": "x"}', "holds a object: expected a list"),
        ("a.json", '[{"a": "x"}, ["b"]]', "record 1: a list: expected an object"),
        ("a.json", "[1]", "record 0: a number"),
        ("a.json", "[null]", "record 0: a null"),
        ("a.json", '[{"a": "x"}, {"a": NaN}]', "record 1: NaN is not JSON"),
        ("a.json", f'[{{"a": 1}}, {{"a": {"7" * 5000}}}]', "record 1: an integer of more than"),
        ("a.json", f'[{{"a": "x"}}, {"[" * 100_000}', "record 1: no valid JSON: nested too deeply"),
        ("a.jsonl", '{"a": "x"}\n{"a": -Infinity}', "line 2: -Infinity is not JSON"),
        ("a.json", '[{"a": "x"}\n{"a": "y"}]', "record 0, line 2: no valid JSON: expected ','"),
        ("a.json", '[{"a": "x"},\n{"a": "y"', "record 1, line 2: no valid JSON"),
        ("a.json", "[" * 200_000, "nested too deeply"),
        ("a.json", b'[{"a": "\xff"}]', "byte 8: not UTF-8"),
        ("a.json.gz", gzip.compress(b"[]" * 100, mtime=0)[:-10], "is damaged"),
        ("a.json.gz", b"no gzip at all", "is damaged"),
        ("a.json.gz", b"", "no valid JSON"),
        ("a.json.gz", gzip.compress(b"[{}]", mtime=0) + b"tail", "is damaged"),
        ("a.json.gz", gzip.compress(b"", mtime=0), "no valid JSON"),
        ("a.json", gzip.compress(b"[{}]", mtime=0), "byte 1: not UTF-8"),
        ("a.json", json.dumps(GOOD).encode("utf-16"), "byte 0: not UTF-8"),
        ("a.json", b"\x00" * 10, "no valid JSON"),
        ("a.json", '[{"a": "x"}] [{"a": "y"}]', "no valid JSON: extra data"),
        ("a.json", '[{"a": "x"}', "no valid JSON"),
        ("a.json", '[{"a": "x"},]', "no valid JSON"),
        ("a.json", "[{'a': 'x'}]", "no valid JSON"),
        ("a.json", '[{"a": Infinity}]', "Infinity is not JSON"),
        ("a.json", '[{"a": "x\ny"}]', "no valid JSON: Invalid control character"),
        ("a.json", '"text"', "holds a text: expected a list"),
        ("a.json", '[{"a": 1}, {"b": {"a": 1, "a": 2}}]', "record 1: key 'a' twice"),
        ("a.jsonl", '{"a": 1}\n{"a": 1, "a": 2}', "line 2: key 'a' twice"),
        ("a.jsonl", '{"a": 1} {"a": 2}', "line 1: no valid JSON: extra data"),
        ("a.jsonl", '[{"a": "x"}]', "record 0: a list: expected an object"),
    ],
)
def test_broken_files(name, data, message, tmp_path):
    path = write(tmp_path / name, data)
    with pytest.raises(ValueError, match=message) as error:
        read_json(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(ValueError, match=r"cannot read .*nothing\.json: No such file"):
        read_json(tmp_path / "nothing.json")
    with pytest.raises(ValueError, match="is a directory: expected a regular file"):
        read_json(tmp_path)


@pytest.mark.parametrize("suffix", ["json", "jsonl", "json.gz"])
@pytest.mark.parametrize("kind", ["FIFO", "socket", "device"])
def test_files_that_could_be_read_for_ever_are_refused_at_once(kind, suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    with pytest.raises(UserError, match=f"{path} is a {kind}: expected a regular file"):
        read_json(path)


def test_a_file_that_expands_without_end_is_refused(tmp_path, monkeypatch):
    """60 MB of spaces compress to 60 kB; no text does."""
    monkeypatch.setattr("datamodules.files.LARGE", 1_000_000)
    path = write(tmp_path / "a.json.gz", gzip.compress(b"[" + b" " * 60_000_000, mtime=0))
    with pytest.raises(UserError, match="expands to more than 100 times its"):
        read_json(path)
    # A small file may: a list of a thousand equal records is one.
    many = json.dumps(GOOD * 5_000).encode()
    small = write(tmp_path / "b.json.gz", gzip.compress(many, mtime=0))
    assert len(many) > 100 * small.stat().st_size
    assert len(read_json(small)) == 10_000


def test_a_file_that_cannot_fit_into_memory_is_refused_unread(tmp_path):
    path = tmp_path / "a.json"
    with path.open("wb") as file:
        file.truncate(10**13)  # sparse: takes no room
    with pytest.raises(UserError, match=r"a\.json holds 10000\.0 GB or more.*split the file"):
        read_json(path)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({}, "f.json, record 3: no field 'a'"),
        ({"a": 3}, "'a' is a number: expected text"),
        ({"a": None}, "'a' is a null"),
        ({"a": ["x"]}, "'a' is a list"),
        ({"a": True}, "'a' is a truth value"),
        ({"a": ""}, "'a' is empty"),
        ({"a": " \n"}, "'a' is empty"),
        ({"a": "\ud800"}, "half a surrogate pair"),
    ],
)
def test_fields_that_are_refused(item, message):
    with pytest.raises(ValueError, match=message):
        get_text(item, "a", "f.json, record 3")


def test_text_is_kept_as_it_stands():
    assert get_text({"a": "  x \n"}, "a", "place") == "  x \n"
    assert get_text({"a": ""}, "a", "place", empty=True) == ""


def test_exactly_one_file_is_found(tmp_path):
    with pytest.raises(ValueError, match=r"exactly one file train\*\.json, has none"):
        find_file(tmp_path, ["train*.json"])
    with pytest.raises(ValueError, match="no such folder"):
        find_file(tmp_path / "nowhere", ["train*.json"])
    first = write(tmp_path / "train.json", "[]")
    assert find_file(tmp_path, ["train*.json"]) == first
    write(tmp_path / "train_xl.json", "[]")
    with pytest.raises(ValueError, match=r"has train\.json, train_xl\.json"):
        find_file(tmp_path, ["train*.json"])


GOOD_MATH = b'[{"instruction": "1+1?", "input": "", "output": "2", "answer": "2"}]'
GOOD_TEXT = b"1 your persona: a\n2 hi\thello\n1 your persona: b\n2 you\tme\n"


@settings(max_examples=more(300))
@given(data=st.data())
def test_damaged_files_are_read_or_refused(data, tmp_path_factory):
    """Bytes replaced, inserted or lost anywhere: records, or one line, and never anything else."""
    folder = tmp_path_factory.mktemp("damaged")
    source = data.draw(st.sampled_from([GOOD_MATH, GOOD_TEXT]))
    start = data.draw(st.integers(0, len(source)))
    end = data.draw(st.integers(start, len(source)))
    content = source[:start] + data.draw(st.binary(max_size=12)) + source[end:]
    if source is GOOD_MATH:
        module = Math10k("none", str(folder), train_file="train.json")
        path = write(folder / "train.json", content)
    else:
        module = ConvAI2("none", str(folder), train_file="train.txt")
        path = write(folder / "train.txt", content)
    try:
        records, refused = module.train_records(), ""
    except ValueError as error:
        records, refused = [], str(error)
    assert bool(records) != bool(refused)
    assert not refused or str(path) in refused
    assert len(refused.splitlines()) <= 1
    assert all(isinstance(r["prompt"], str) and r["response"].strip() for r in records)
