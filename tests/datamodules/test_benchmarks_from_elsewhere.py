"""Training data of the benchmarks as the id of a dataset on the Hub, or as a saved folder."""

import json

import datasets
import pytest

from datamodules import Commonsense170k, ConvAI2, Math10k, Source, sources
from tests.conftest import ROOT, write_commonsense

BASE = str(ROOT / "datamodules" / "miniworld" / "base")
PUBLISHED = {"path": "owner/published", "revision": "1a2b3c4"}
PROBLEMS = [
    {"instruction": f"{i} + 1 ?", "input": "", "output": f"it is {i + 1}", "answer": f"{i + 1}"}
    for i in range(4)
]
TURNS = [{"instruction": f"say {i}", "output": f"reply {i}"} for i in range(4)]


@pytest.fixture
def hub(monkeypatch):
    """A Hub that has one dataset at one revision."""
    rows = []

    def load(path, name, *, split, revision):
        assert ({"path": path, "revision": revision}, name, split) == (PUBLISHED, None, "train")
        return datasets.Dataset.from_list(rows)

    monkeypatch.setattr(sources, "_why_unreachable", lambda: None)
    monkeypatch.setattr(datasets, "load_dataset", load)
    return rows


def commonsense(folder):
    write_commonsense(folder)
    return json.loads((folder / "openbookqa" / "train.json").read_text())[:4]


@pytest.mark.filterwarnings("ignore:.*published")
@pytest.mark.parametrize(
    ("datamodule", "rows"), [(Commonsense170k, None), (Math10k, PROBLEMS), (ConvAI2, TURNS)]
)
def test_the_same_records_from_the_hub_a_folder_and_a_file(datamodule, rows, hub, tmp_path):
    rows = commonsense(tmp_path) if rows is None else rows
    hub += rows
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    found = {}
    for given in (Source(**PUBLISHED), str(tmp_path / "saved"), str(tmp_path / "rows.json")):
        data = datamodule(BASE, str(tmp_path / "none"), train=given)
        records = data.train_records()
        assert data.describe_protocol()["train"]["revision"] == getattr(given, "revision", None)
        found[str(given)] = [(r["prompt"], r["response"], r["reference"]) for r in records]
        assert len({record["id"] for record in records}) == len(rows)
    (first, *others) = found.values()
    assert all(other == first for other in others)
    assert [prompt for prompt, _, _ in first] == [row["instruction"] for row in rows]
    assert [response for _, response, _ in first] == [row["output"] for row in rows]


@pytest.mark.parametrize("datamodule", [Commonsense170k, Math10k, ConvAI2])
def test_without_a_network_one_line_names_the_download(datamodule, monkeypatch):
    monkeypatch.setattr(sources, "_why_unreachable", lambda: "there is no network")
    expected = r"hf download --repo-type dataset owner/published --revision 1a2b3c4"
    with pytest.raises(ValueError, match=expected):
        datamodule(BASE, "none", train=Source(**PUBLISHED)).train_records()
