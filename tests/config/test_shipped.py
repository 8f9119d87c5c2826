"""Shipped configurations and MiniWorld's base are found by name from any folder."""

import itertools
from pathlib import Path

import pytest
import yaml

import datamodules.shipped
from tera_pl.commands import study
from tera_pl.config import shipped
from tera_pl.config.fragments import expand
from tera_pl.errors import UserError
from tera_pl.models.backbone import Backbone, load_config
from tests.conftest import ROOT

BASE = "datamodules/miniworld/base"


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def files(args):
    return [value for option, value in itertools.pairwise(args) if option == "--config"]


@pytest.mark.parametrize("name", ["tera_pl/quickstart.yaml", "configs/quickstart.yaml"])
def test_a_name_means_the_file_of_the_repository(name):
    expected = expand(["fit", "--config", str(ROOT / "configs" / "quickstart.yaml")])
    assert expand(["fit", "--config", name]) == expected
    assert len(files(expected)) > 3


def test_every_configuration_has_a_name():
    names = [path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.yaml")]
    assert len(names) > 100
    assert [shipped.find_config(name) for name in names] == [ROOT / name for name in names]


def test_a_file_on_disk_wins(tmp_path):
    mine = tmp_path / "tera_pl" / "quickstart.yaml"
    mine.parent.mkdir()
    mine.write_text("seed_everything: 5")
    assert files(expand(["fit", "--config", "tera_pl/quickstart.yaml"])) == [
        "tera_pl/quickstart.yaml"
    ]
    (tmp_path / "datamodules" / "miniworld" / "base").mkdir(parents=True)
    assert shipped.locate(BASE) == datamodules.shipped.locate(BASE) == BASE


def test_fragments_are_found_beside_the_file_then_by_name(tmp_path):
    (tmp_path / "own.yaml").write_text("seed_everything: 5")
    mine = tmp_path / "mine.yaml"
    mine.write_text(yaml.safe_dump({"base": ["tera_pl/base/cpu.yaml", "own.yaml"]}))
    found = files(expand(["fit", "--config", "mine.yaml"]))
    assert [Path(text).name for text in found if text.endswith(".yaml")] == [
        "training.yaml",
        "own.yaml",
    ]
    mine.write_text(yaml.safe_dump({"base": ["tera_pl/base/cpv.yaml"]}))
    with pytest.raises(UserError, match=r"mine\.yaml: base: no file .*base/cpv\.yaml: did you "):
        expand(["fit", "--config", "mine.yaml"])


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("quickstart.yaml", "tera_pl/quickstart.yaml"),
        ("tera_pl/quickstrat.yaml", "tera_pl/quickstart.yaml"),
        ("configs/miniature/terra.yaml", "tera_pl/miniature/tera.yaml"),
        ("mime.yaml", "mine.yaml"),
    ],
)
def test_a_missing_file_is_a_line_with_near_names(name, near, tmp_path):
    (tmp_path / "mine.yaml").touch()
    with pytest.raises(UserError) as error:
        expand(["fit", "--config", name])
    text = str(error.value)
    assert text.startswith(f"cannot read {name}: there is no such file: did you mean ")
    assert near in text
    with pytest.raises(UserError) as error:
        study.main(["--config", name])
    assert str(error.value) == text


def test_nothing_outside_is_a_name():
    for name in ("tera_pl/../pyproject.toml", "tera_pl/base", "tera_pl/", "base/cpu.yaml"):
        assert shipped.find_config(name) is None
    assert shipped.near_names("xyz.yaml") == ""
    for path in ("datamodules/none", "org/model", "tera_pl", "gpt2", "datamodules/../configs"):
        located = shipped.locate(path)
        assert located == datamodules.shipped.locate(path) == path


def test_both_packages_find_the_same_base():
    located = shipped.locate(BASE)
    assert located == datamodules.shipped.locate(BASE) == str(ROOT / BASE)
    assert load_config(Backbone(BASE, dtype="float32")).hidden_size > 0
