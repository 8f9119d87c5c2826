"""A configuration with `base:` means the same as its fragments in a row."""

from pathlib import Path

import pytest
import yaml

from tera_pl.cli import main
from tera_pl.config.fragments import expand
from tests.conftest import ROOT


def write(folder, name, config):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(config if isinstance(config, str) else yaml.safe_dump(config))
    return str(path)


def test_bases_come_first_and_are_found_from_their_file(tmp_path):
    deepest = write(tmp_path, "base/deep/c.yaml", {"c": 1})
    first = write(tmp_path, "base/a.yaml", {"base": ["deep/c.yaml"], "a": 1})
    second = write(tmp_path, "base/b.yaml", {"b": 1})
    top = write(tmp_path, "run/x.yaml", {"base": ["../base/a.yaml", "../base/b.yaml"], "x": 1})
    args = expand(["fit", "--config", top, "--trainer.max_steps=1", f"--config={second}"])
    assert args[:1] + args[9:10] == ["fit", "--trainer.max_steps=1"]
    files = [args[i + 1] for i, arg in enumerate(args) if arg == "--config"]
    resolved = [Path(f).read_text() if f.endswith(".yaml") else f for f in files]
    assert [yaml.safe_load(text) for text in resolved] == [
        {"c": 1},
        {"a": 1},
        {"b": 1},
        {"x": 1},
        {"b": 1},
    ]
    assert deepest
    assert first


def test_file_without_base_is_left_alone(tmp_path):
    path = write(tmp_path, "x.yaml", {"x": 1})
    assert expand(["fit", "--config", path, "--print_config"]) == [
        "fit",
        "--config",
        path,
        "--print_config",
    ]
    assert expand(["fit", "--config"]) == ["fit", "--config"]
    with pytest.raises(ValueError, match=r"cannot read none\.yaml: there is no such file"):
        expand(["fit", "--config", "none.yaml"])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"base": "a.yaml"}, r"x\.yaml: base is 'a\.yaml': expected a list of files"),
        ({"base": [1]}, "expected a list of files"),
        ({"base": ["none.yaml"]}, r"x\.yaml: base: no file .*none\.yaml"),
        ({"base": ["x.yaml"]}, "starts from itself"),
        (
            {"trainer": {"logger": {"name": "null"}}},
            r"x\.yaml: trainer\.logger\.name: the text 'null'",
        ),
        ({"a": [1, "~"]}, r"x\.yaml: a\.1: the text '~' would be read as null"),
    ],
)
def test_user_errors_are_one_line(tmp_path, config, message, capsys):
    path = write(tmp_path, "x.yaml", config)
    with pytest.raises(ValueError, match=message):
        expand(["fit", "--config", path])
    assert main(["fit", "--config", path]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_class_of_a_later_file_drops_the_settings_of_the_earlier(tmp_path, capsys):
    model = {"class_path": "tera_pl.tasks.CausalLMTask"}
    lora = {"class_path": "peft.LoraConfig", "init_args": {"r": 3}}
    tera = {"class_path": "tera_pl.adapters.TeraConfig", "init_args": {"out_modes": 3}}
    base = {
        "model": model | {"init_args": {"backbone": {"path": "p"}, "adapter": lora}},
        "data": {"class_path": "datamodules.MiniWorld", "init_args": {"num_test": 7}},
    }
    write(tmp_path, "base.yaml", base)
    config = {"base": ["base.yaml"], "model": {"init_args": {"adapter": tera}}}
    path = write(tmp_path, "x.yaml", config)
    with pytest.raises(SystemExit):
        main(["fit", "--config", path, "--print_config"])
    resolved = yaml.safe_load(capsys.readouterr().out)
    adapter = resolved["model"]["init_args"]["adapter"]
    assert adapter["class_path"] == tera["class_path"]
    assert adapter["init_args"]["out_modes"] == 3
    assert "r" not in adapter["init_args"]
    assert resolved["data"]["init_args"]["num_test"] == 7


@pytest.mark.parametrize(
    "path",
    ["unknown", "trainer.unknown", "model.init_args.unknown", "model.init_args.adapter.unknown"],
)
def test_unknown_key_with_an_empty_mapping_is_refused(path, tmp_path, capsys):
    nested = {}
    for key in reversed(path.split(".")):
        nested = {key: nested}
    mine = tmp_path / "mine.yaml"
    quickstart = str(ROOT / "configs" / "quickstart.yaml")
    mine.write_text(yaml.safe_dump({"base": [quickstart]} | nested))
    try:
        code = main(["fit", "--config", str(mine), "--print_config"])
    except SystemExit as exit_:
        code = exit_.code
    assert code == 2
    assert path.rpartition(".")[2] in capsys.readouterr().err


def test_empty_mapping_where_one_may_be(tmp_path, capsys):
    mine = tmp_path / "mine.yaml"
    settings = {"modes_pattern": {}}
    mine.write_text(
        yaml.safe_dump(
            {
                "base": [str(ROOT / "configs" / "quickstart.yaml")],
                "model": {"init_args": {"adapter": {"init_args": settings}}},
            }
        )
    )
    with pytest.raises(SystemExit) as exit_:
        main(["fit", "--config", str(mine), "--print_config"])
    assert exit_.value.code == 0
    found = yaml.safe_load(capsys.readouterr().out)
    assert found["model"]["init_args"]["adapter"]["init_args"]["modes_pattern"] == {}
