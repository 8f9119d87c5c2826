"""What a study file may hold, and what the hash of a run depends on."""

import shutil
from pathlib import Path

import pytest

from tera_pl.cli import guard
from tera_pl.commands import study
from tera_pl.errors import UserError
from tera_pl.studies.definition import LEARNING_RATE, read_study
from tera_pl.studies.runs import plan_run, resolve
from tests.studies.conftest import STUDY, get

INVALID = {
    "": "output is missing: expected output, entries",
    "[1]": "",
    "{": "",
    "output: x": "entries is missing",
    STUDY + "extra: 1": "extra is unknown: expected output",
    STUDY.replace("seeds", "seed"): "seed is unknown: did you mean seeds?",
    STUDY.replace(
        "config: a.yaml", "configs: a.yaml"
    ): "entries.a.configs is unknown: did you mean",
    STUDY.replace("{config: a.yaml}", "a.yaml"): "entries.a is 'a.yaml': expected a mapping",
    STUDY.replace("a.yaml", "none.yaml"): "entries.a.config: no file",
    STUDY.replace("a.yaml", "[a.yaml]"): "entries.a.config is ['a.yaml']: expected a text",
    STUDY.replace("{a:", "{../victim:"): "'../victim' is an invalid name",
    STUDY.replace("{a:", "{/tmp/x:"): "'/tmp/x' is an invalid name",
    STUDY.replace("{a:", "{.a:"): "'.a' is an invalid name",
    STUDY.replace("{a:", '{"a ":'): "'a ' is an invalid name",
    STUDY.replace("{a:", '{"a\\0":'): "is an invalid name",
    STUDY.replace("{a:", "{table.md:"): "'table.md' is an invalid name",
    STUDY.replace("{a:", "{" + 201 * "a" + ":"): "is longer than 200 bytes",
    STUDY.replace("output: out", "output: ."): "output is '.', the current folder or one above",
    STUDY.replace("output: out", "output: /"): "output is '/', the current folder or one above",
    STUDY.replace("output: out", "output: 5"): "output is 5: expected a text",
    STUDY.replace("[0.1]", "0.1"): "learning_rates is 0.1: expected a list of positive numbers",
    STUDY.replace("[0.1]", "[fast]"): "learning_rates[0] is 'fast': expected positive numbers",
    STUDY.replace("[0.1]", "[-0.1]"): "learning_rates[0] is -0.1: expected positive numbers",
    STUDY.replace("[0.1]", f"[{10**309}]"): "expected positive numbers",
    STUDY.replace("[0.1]", "[.nan]"): "learning_rates[0] is nan: expected positive numbers",
    STUDY.replace("[0.1]", "[]"): "learning_rates is []: expected a list",
    STUDY.replace("[0.1]", "[0.1, 0.1]"): "learning_rates has 0.1 twice",
    STUDY.replace("[3]", "[3.5]"): "seeds[0] is 3.5: expected integers",
    STUDY.replace("[3]", "[true]"): "seeds[0] is True: expected integers",
    STUDY.replace("a.yaml}", "a.yaml, set: [1]}"): "entries.a.set is [1]: expected values by",
    STUDY.replace("a.yaml}", "a.yaml, set: {1: 2}}"): "",
    STUDY.replace(
        "a.yaml}", "a.yaml, set: {seed_everything: 2}}"
    ): "a.set: seed_everything is set by the",
    STUDY.replace("a.yaml}", "a.yaml, seed_keys: x}"): "entries.a.seed_keys is 'x': expected a li",
    STUDY.replace("a.yaml}", "a.yaml, learning_rates: [a]}"): "entries.a.learning_rates[0] is 'a'",
    STUDY.replace("a.yaml}", "a.yaml, grid: {x.y: uniform}}"): "x.y is 'uniform': expected a list",
    STUDY.replace("a.yaml}", "a.yaml, grid: {x.y: [ab, a b]}}"): "two rows are 'a y=ab'",
}


@pytest.mark.parametrize("text", INVALID)
def test_an_invalid_study_is_one_line_that_names_the_key(config, text, capsys):
    config.write_text(text)
    assert guard(lambda: study.main(["--config", str(config)])) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "study.yaml" in line
    assert INVALID[text] in line
    assert sorted(path.name for path in config.parent.iterdir()) == [
        "a.yaml",
        "b.yaml",
        "study.yaml",
    ]


def test_a_grid_is_a_line_for_each_combination(config):
    config.write_text(
        "output: out\nlearning_rates: [0.1]\nseeds: [3]\nentries:\n"
        "  a:\n    config: a.yaml\n    set: {x.z: 1}\n"
        "    grid: {x.y: [1, 2], x.sizes: [[4, 8], {q: 3}]}\n"
    )
    entries = read_study(config).entries
    assert {name: entry.set for name, entry in entries.items()} == {
        "a y=1 sizes=4,8": {"x.z": 1, "x.y": 1, "x.sizes": [4, 8]},
        "a y=1 sizes=q=3": {"x.z": 1, "x.y": 1, "x.sizes": {"q": 3}},
        "a y=2 sizes=4,8": {"x.z": 1, "x.y": 2, "x.sizes": [4, 8]},
        "a y=2 sizes=q=3": {"x.z": 1, "x.y": 2, "x.sizes": {"q": 3}},
    }


def plan(entry, name, folder, lr=0.1, seed=1):
    return plan_run(resolve(entry, name, folder), Path("out") / name, lr, seed, entry.seed_keys)


@pytest.mark.slow
def test_the_hash_is_of_all_that_results_depend_on(tiny_config, tiny_commonsense, tmp_path):
    """Settings after `base:` and `set`, and the content of data and base model; no more."""
    data = tmp_path / "data"
    shutil.copytree(tiny_commonsense, data)
    child = tmp_path / "child.yaml"
    child.write_text(f"# one\nbase: [{tiny_config.name}]\ndata: {{init_args: {{path: {data}}}}}\n")
    (tmp_path / "study.yaml").write_text(STUDY.replace("a.yaml", "child.yaml"))
    (entry,) = read_study(tmp_path / "study.yaml").entries.values()
    first = plan(entry, "a", tmp_path)
    assert first.folder == Path(f"out/a/lr0.1-seed1-{first.sha256[:10]}")
    assert get(first.settings, LEARNING_RATE) == 0.1
    assert set(first.inputs) == {
        str(data),
        str(get(first.settings, "model.init_args.backbone.path")),
    }
    child.write_text(child.read_text().replace("# one", "# two"))
    assert plan(entry, "renamed", tmp_path).sha256 == first.sha256
    others = {plan(entry, "a", tmp_path, lr=0.2).sha256, plan(entry, "a", tmp_path, seed=2).sha256}
    others.add(plan(entry, "a", tmp_path, lr=0.1000001).sha256)
    text = tiny_config.read_text()
    tiny_config.write_text(text.replace("warmup_steps: 2", "warmup_steps: 3"))
    others.add(plan(entry, "a", tmp_path).sha256)
    tiny_config.write_text(text)
    assert plan(entry, "a", tmp_path).sha256 == first.sha256
    file = data / "openbookqa" / "train.json"
    file.write_text(file.read_text().replace("green", "white", 1))
    others.add(plan(entry, "a", tmp_path).sha256)
    assert len(others | {first.sha256}) == 6
    for changed, message in (
        ({"trainer.max_stops": 1}, "entries.a: .*max_stops"),
        ({"trainer.max_steps": "many"}, "entries.a: .*max_steps"),
    ):
        with pytest.raises(UserError, match=message):
            resolve(type(entry)(entry.config, changed), "a", tmp_path)
    with pytest.raises(UserError, match=r"entries.a: data.init_args.sead is unknown"):
        plan(type(entry)(entry.config, seed_keys=["data.init_args.sead"]), "a", tmp_path)


TENSORBOARD = "lightning.pytorch.loggers.TensorBoardLogger"
CSV = "lightning.pytorch.loggers.CSVLogger"
WANDB = {"class_path": "lightning.pytorch.loggers.WandbLogger", "init_args": {"project": "p"}}


@pytest.mark.parametrize(
    ("given", "kept", "placed"),
    [
        (None, [TENSORBOARD], [0]),
        (False, [TENSORBOARD], [0]),
        ({"class_path": CSV, "init_args": {"name": "x"}}, [CSV], [0]),
        (WANDB, [TENSORBOARD, WANDB["class_path"]], [0]),
        (
            [WANDB, {"class_path": CSV}, {"class_path": TENSORBOARD, "init_args": {"version": 3}}],
            [WANDB["class_path"], CSV, TENSORBOARD],
            [1, 2],
        ),
    ],
)
def test_a_study_keeps_the_loggers(given, kept, placed, tmp_path):
    optimizer = {"init_args": {"lr": None}}
    settings = {"model": {"init_args": {"optimizer": optimizer}}, "data": {}}
    settings["trainer"] = {"logger": given, "default_root_dir": "mine"}
    run = plan_run(settings, tmp_path / "row", 0.1, 3, [])
    found = run.settings["trainer"]["logger"]
    found = found if isinstance(found, list) else [found]
    assert [logger["class_path"] for logger in found] == kept
    place = {"save_dir": str(tmp_path / "row"), "name": run.folder.name, "version": None}
    for index, logger in enumerate(found):
        assert logger["init_args"] == (place if index in placed else WANDB["init_args"])
    assert settings["trainer"]["logger"] == given
