"""Own data by columns: every form of the same records gives the same examples."""

import csv
import hashlib
import json
import pickle
import re
from collections import Counter

import datasets
import pytest

from datamodules import Columns, Instructions, Source, sources
from tera_pl.cli import main
from tests.conftest import ROOT

BASE = str(ROOT / "datamodules" / "miniworld" / "base")
ROWS = [
    {"instruction": f"say {i}", "input": "" if i % 2 else "now", "output": f"it is {i} ."}
    for i in range(40)
]
COLUMNS = Columns(prompt="{instruction}\n{input}", response="output")


def write(folder, kind, rows=ROWS):
    path = folder / kind
    if kind == "saved":
        datasets.Dataset.from_list(rows).save_to_disk(str(path))
    elif kind == "splits":
        saved = {"train": datasets.Dataset.from_list(rows)}
        datasets.DatasetDict(saved).save_to_disk(str(path))
    elif kind.endswith(".json"):
        path.write_text(json.dumps(rows))
    elif kind.endswith(".jsonl"):
        path.write_text("\n".join(map(json.dumps, rows)))
    elif kind.endswith(".parquet"):
        datasets.Dataset.from_list(rows).to_parquet(str(path))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], delimiter="\t" if kind.endswith("tsv") else ",")
            writer.writeheader()
            writer.writerows(rows)
    return str(path)


def examples(data, *splits):
    for stage in ("fit", "test"):
        data.setup(stage)
    return {name: [(r["prompt"], r["response"]) for r in data._records[name]] for name in splits}


@pytest.mark.parametrize(
    "kind", ["a.json", "a.jsonl", "a.csv", "a.tsv", "a.parquet", "saved", "splits"]
)
def test_every_form_gives_the_same_examples(tmp_path, kind):
    data = Instructions(BASE, write(tmp_path, kind), columns=COLUMNS)
    found = examples(data, "train", "val", "test")
    assert {name: len(items) for name, items in found.items()} == {"train": 33, "val": 3, "test": 4}
    expected = {(f"{row['instruction']}\n{row['input']}".strip(), row["output"]) for row in ROWS}
    assert {item for items in found.values() for item in items} == expected
    # A file is known by its content, a saved folder by its tables.
    path = tmp_path / kind
    files = [path] if path.is_file() else sorted(path.rglob("*.arrow"))
    digests = {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    assert files
    assert data.training_files() == digests
    # The choice of what is held out does not depend on the form.
    assert (
        found["test"]
        == examples(Instructions(BASE, write(tmp_path, "other.json"), columns=COLUMNS), "test")[
            "test"
        ]
    )


def test_weights_repeat_training_examples_and_leave_the_held_out_ones_alone(tmp_path):
    more = [row | {"output": f"it was {i} ."} for i, row in enumerate(ROWS)]
    given = [
        Source(write(tmp_path, "a.json"), weight=2.5),
        Source(write(tmp_path, "b.json", more), weight=0.5),
    ]
    found = examples(Instructions(BASE, given, columns=COLUMNS), "train", "val", "test")
    counts = Counter(response for _, response in found["train"])
    twice = {n for response, n in counts.items() if response.startswith("it is")}
    once = {n for response, n in counts.items() if response.startswith("it was")}
    assert (twice, once) == ({2, 3}, {1})
    held_out = {response for name in ("val", "test") for _, response in found[name]}
    assert len(held_out) == 7 + 8
    assert not held_out & counts.keys()


def test_weights_of_training_data_that_is_the_test_data_too(tmp_path):
    path = write(tmp_path, "a.json")
    data = Instructions(BASE, [Source(path, weight=2)], test=path, columns=COLUMNS)
    found = examples(data, "train")
    assert set(Counter(found["train"]).values()) == {2}


def test_loaders_do_not_carry_the_datamodule_to_their_workers(tmp_path):
    data = Instructions(BASE, write(tmp_path, "a.json"), columns=COLUMNS)
    data.setup("test")
    data.trainer = lambda: None  # as little to be pickled as a trainer
    rows = pickle.loads(pickle.dumps(data.test_dataloader().dataset))
    assert rows[0]["record"]["prompt"].startswith("Below is an instruction")


def test_reference_choices_and_task(tmp_path):
    rows = [
        {"q": f"pick {i}", "a": "yes", "gold": ["yes", "sure"], "of": ["yes", "no"], "kind": "b"}
        for i in range(20)
    ]
    columns = Columns(prompt="q", response="a", reference="gold", choices="of", task="kind")
    data = Instructions(BASE, write(tmp_path, "a.json", rows), columns=columns)
    record = data.train_records()[0]
    assert (record["reference"], record["choices"]) == (["yes", "sure"], ["yes", "no"])
    assert record["task"] == "b"


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        ([{"q": "a"}], {}, r"a\.json, record 0: no field 'instruction': there are 'q'"),
        ([{"q": "a", "r": None}], {"prompt": "q", "response": "r"}, "field 'r' is a null"),
        ([{"q": "a", "r": 1.5}], {"prompt": "q", "response": "r"}, "field 'r' is a number"),
        ([{"q": " ", "r": "b"}], {"prompt": "{q}", "response": "r"}, "gives no text"),
        (
            [{"q": "a", "r": "b", "c": "no"}],
            {"prompt": "q", "response": "r", "choices": "c"},
            "list",
        ),
        ([{"q": "a", "r": "b"}], {"prompt": "q", "response": "r"}, "data.test_size is 1"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, rows, columns, message):
    data = Instructions(BASE, write(tmp_path, "a.json", rows), columns=Columns(**columns))
    with pytest.raises(ValueError, match=message):
        data.setup("fit")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n3\n", "line 3: 1 values: expected 2"),
        ("a,a\n1,2\n", "line 1: a column occurs twice"),
        ('a,b\n"1,2\n', "unexpected end of data"),
        ("a,b\n", "holds no records"),
    ],
)
def test_invalid_tables(tmp_path, text, message):
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        Instructions(BASE, str(path), columns=Columns("a", "b")).train_records()


def test_lines_of_a_table_end_at_line_feeds_alone(tmp_path):
    path = tmp_path / "a.csv"
    values = ["one\u2028two", "three\x85four", "five\x0csix", "seven"]
    path.write_text("q\n" + "\n".join(values) + "\n", encoding="utf-8")
    data = Instructions(BASE, str(path), test=str(path), columns=Columns("q", "q"))
    assert [record["prompt"] for record in data.train_records()] == values


def test_table_values_stay_text(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('q,r\r\n007,1.50\r\n"two\nlines, and ""more""",NA\r\n')
    data = Instructions(BASE, str(path), test=str(path), columns=Columns("q", "r"))
    found = [(record["prompt"], record["response"]) for record in data.train_records()]
    assert found == [("007", "1.50"), ('two\nlines, and "more"', "NA")]


@pytest.mark.parametrize("name", ["none.json", "data.txt", "./nowhere", "a/b/c"])
def test_missing_files_are_not_looked_up_on_the_hub(monkeypatch, name):
    monkeypatch.setattr(sources, "_why_unreachable", lambda: pytest.fail("asked the Hub"))
    with pytest.raises(ValueError, match=r"[Nn]o such file"):
        Instructions(BASE, name).train_records()


def test_without_a_network_one_line_names_the_download(monkeypatch):
    monkeypatch.setattr(sources, "_why_unreachable", lambda: "there is no network")
    with pytest.raises(
        ValueError, match=r"hf download --repo-type dataset some/data --revision v1"
    ):
        Instructions(BASE, [Source("some/data", revision="v1")]).train_records()


def test_a_source_is_given_once_however_it_is_spelled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "a.json")
    for other in ("./a.json", str(tmp_path / "a.json")):
        with pytest.raises(ValueError, match=r"data\.train: a source occurs twice"):
            Instructions(BASE, [Source("a.json"), Source(other)])


def test_two_splits_of_one_folder_are_two_sources(tmp_path):
    rows = [datasets.Dataset.from_list(ROWS), datasets.Dataset.from_list(ROWS[:10])]
    path = str(tmp_path / "both")
    datasets.DatasetDict(train=rows[0], more=rows[1]).save_to_disk(path)
    given = [Source(path), Source(path, split="more", weight=3)]
    records = Instructions(BASE, given, test=path, columns=COLUMNS).test_sources
    assert records == [Source(path)]
    test = [Source(path, split="more")]
    data = Instructions(BASE, given, test=test, columns=COLUMNS)
    found = examples(data, "train", "val")
    assert len({record["id"] for record in data.train_records()}) == 50
    counts = Counter(found["train"])
    # Those of the first ten that are not held out occur once, and three times more.
    assert {n for _, n in counts.items()} <= {1, 3, 4}
    assert 4 in counts.values()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train": [Source("a.json", weight=1e-9)]}, "the weights leave none of 33 training"),
        ({"train": "a.json", "test": "a.json", "leaks": "drop"}, "every training question occurs"),
        ({"train": "https://example.org/a.json"}, "an address on the web: download it"),
        ({"train": "wide.csv"}, r"wide\.csv, byte 0: not UTF-8: save the file as UTF-8"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*occur in a test set")
def test_data_that_leaves_nothing_to_train_on(tmp_path, monkeypatch, settings, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "a.json")
    (tmp_path / "wide.csv").write_text("a,b\n1,2\n", encoding="utf-16")
    with pytest.raises(ValueError, match=message):
        Instructions(BASE, columns=COLUMNS, **settings).setup("fit")


def test_fields_of_a_table_may_be_long(tmp_path):
    long = "a, " * 100_000
    (tmp_path / "a.csv").write_text(f'q,r\nshort,yes\n"{long}",no\n')
    data = Instructions(BASE, str(tmp_path / "a.csv"), test="b.csv", columns=Columns("q", "r"))
    assert [record["prompt"] for record in data.train_records()] == ["short", long]


@pytest.mark.parametrize("template", ["{a", "a}", "{}", "{{a}"])
def test_templates_with_a_single_brace(template):
    with pytest.raises(ValueError, match=r"data\.columns\.prompt is"):
        Columns(prompt=template)


@pytest.mark.slow
def test_fit_and_test_by_yaml(tmp_path, monkeypatch, tiny_backbone):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "a.json", [{"q": f"w{i} w1", "r": f"w{i % 3}"} for i in range(30)])
    config = {
        "model": {
            "class_path": "tera_pl.tasks.CausalLMTask",
            "init_args": {
                "backbone": {"path": str(tiny_backbone), "dtype": "float32"},
                "adapter": {
                    "class_path": "tera_pl.adapters.TeraConfig",
                    "init_args": {"target_modules": ["q_proj", "v_proj"]},
                },
                "schedule": {"warmup_steps": 1},
            },
        },
        "data": {
            "class_path": "datamodules.Instructions",
            "init_args": {
                "train": "a.json",
                "columns": {"prompt": "q", "response": "r"},
                "encoding": {"template": "{instruction}", "pad_token": None},
                "batch_size": 4,
            },
        },
        "trainer": {"accelerator": "cpu", "max_steps": 2, "logger": False},
    }
    (tmp_path / "own.yaml").write_text(json.dumps(config))
    assert main(["fit", "--config", "own.yaml"]) == 0
    results = json.loads(next(tmp_path.glob("runs/unlogged/*/results.json")).read_text())
    assert results["settings"]["protocol"]["columns"]["prompt"] == "q"
