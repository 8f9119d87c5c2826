"""Every shipped YAML parses against the code, and says what it is for."""

import re
import subprocess
import sys
from functools import reduce

import pytest
import yaml

from tera_pl.cli import main
from tera_pl.studies import runs as study_runs
from tera_pl.studies.definition import LEARNING_RATE, read_study
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

SHIPPED = sorted((ROOT / "configs").rglob("*.yaml"))
STUDIES = [path for path in SHIPPED if path.name.startswith("study_")]
CONFIGS = [
    path
    for path in SHIPPED
    if ROOT / "configs" / "base" not in path.parents and path not in STUDIES
]
METHODS = {
    "tera",
    "tera_identity",
    "lora",
    "dora",
    "hira_r1",
    "hira_r32",
    "vera",
    "randlora",
    "ia3",
    "loretta",
    "mora",
    "lotr",
    "prompt_tuning",
    "p_tuning",
    "full",
}
PROTOCOLS = sorted((ROOT / "configs" / "base" / "protocols").rglob("*.yaml"))
PAPER = {"commonsense170k", "convai2", "math10k"}


def name(path):
    return str(path.relative_to(ROOT / "configs"))


def resolve(capsys, *paths):
    with pytest.raises(SystemExit) as error:
        main(["fit", *(f"--config={path}" for path in paths), "--print_config"])
    assert error.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


def items(config, prefix=()):
    """Every value of a nested mapping with its keys."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from items(value, (*prefix, key))
        else:
            yield (*prefix, key), value


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_config_parses_and_every_value_given_is_what_runs(path, capsys):
    resolved = dict(items(resolve(capsys, path)))
    for keys, value in items(yaml.safe_load(path.read_text())):
        if keys != ("base",):
            assert resolved[keys] == value


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_header_says_what_it_is_for(path):
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any(line.startswith("# Run: ") for line in header)
    assert "quickstart" in path.name or any(str(path.relative_to(ROOT)) in line for line in header)
    if path.parent.parent.name in PAPER:
        text = " ".join(header)
        assert "For: " in text
        assert "Ours: " in text
        assert "Differs from the paper in: " in text


def test_gradient_checkpointing_is_on_where_memory_asks_for_it():
    """As docs/memory.md has it, whose numbers are those of `estimate`."""
    rows = re.findall(r"(?m)^\| (\S+/llama\S+) \| (.*) \|$", (ROOT / "docs/memory.md").read_text())
    paths = [path for path in CONFIGS if path.parent.parent.name in PAPER]
    assert [row for row, _ in rows] == [name(path.with_suffix("")) for path in paths]
    for path, (_, cells) in zip(paths, rows, strict=True):
        step, generation, state, _ = (cell.strip(" ~") for cell in cells.split("|"))
        needed = max(float(cell or 0) for cell in (step, generation))
        assert state == ("on" if needed > 76 else "off")
        given = yaml.safe_load(path.read_text())["model"]["init_args"].get("backbone", {})
        assert given.get("gradient_checkpointing", False) == (state == "on")
        assert f"# Memory: docs/memory.md; gradient checkpointing is {state}.\n" in path.read_text()


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=name)
def test_protocol_given_last_wins_whole(protocol, capsys):
    benchmark = protocol.parent.name
    config = ROOT / "configs" / benchmark / "llama3_8b" / "tera.yaml"
    resolved = dict(items(resolve(capsys, config, protocol)))
    given = dict(items(yaml.safe_load(protocol.read_text())))
    assert {keys: resolved[keys] for keys in given} == given
    assert resolved["data", "init_args", "protocol"] == protocol.stem
    # A field that one protocol sets and another leaves would stay behind when they change places.
    others = (dict(items(yaml.safe_load(p.read_text()))) for p in protocol.parent.glob("*.yaml"))
    assert all(other.keys() == given.keys() for other in others)


@pytest.mark.parametrize("layer", ["ddp", "fsdp2"])
def test_layer_for_many_processes_starts_any_config(layer, tmp_path, capsys):
    """As a user would: a file of their own that starts from a run and from the layer."""
    config = ROOT / "configs" / "math10k" / "llama3_8b" / "tera.yaml"
    given = ROOT / "configs" / "base" / f"{layer}.yaml"
    mine = tmp_path / "mine.yaml"
    mine.write_text(yaml.safe_dump({"base": [str(config), str(given)], "trainer": {"devices": 4}}))
    resolved = dict(items(resolve(capsys, mine)))
    expected = dict(items(yaml.safe_load(given.read_text()))) | {("trainer", "devices"): 4}
    assert {keys: resolved[keys] for keys in expected} == expected
    assert resolved["trainer", "precision"] == "32-true"


@pytest.mark.parametrize("benchmark", sorted(PAPER))
@pytest.mark.parametrize("backbone", ["llama2_7b", "llama3_8b"])
def test_methods_differ_in_adapter_and_learning_rate_alone(benchmark, backbone):
    folder = ROOT / "configs" / benchmark / backbone
    paths = [path for path in folder.glob("*.yaml") if path not in STUDIES]
    given = {path.stem: yaml.safe_load(path.read_text()) for path in paths}
    assert given.keys() == METHODS
    for name, config in given.items():
        assert config["base"] == given["tera"]["base"]
        # How the base is held in memory changes no result; full fine-tuning needs float32.
        kept = config["model"]["init_args"].pop("backbone", {})
        full = {"dtype": "float32"} if name == "full" else {}
        assert kept.items() <= ({"gradient_checkpointing": True} | full).items()
        assert config["trainer"].pop("precision", None) == ("bf16-mixed" if full else None)
        assert config["model"]["init_args"].keys() == {"adapter", "optimizer"}
        assert config["model"]["init_args"]["optimizer"]["init_args"].keys() == {
            "lr",
            "weight_decay",
        }
        assert config["trainer"] == {
            "logger": {"init_args": {"name": f"{benchmark}_{backbone}_{name}"}}
        }
        assert config.keys() == {"base", "model", "trainer"}


@pytest.mark.parametrize("path", STUDIES, ids=name)
def test_studies_set_keys_that_there_are(path, tmp_path):
    study = read_study(path)
    assert all((path.parent / entry.config) in CONFIGS for entry in study.entries.values())
    # One line for every combination of keys; `test_study_lines_fit_their_base` has all the values.
    lines = {tuple(entry.set): line for line, entry in study.entries.items()}
    for line in lines.values():
        entry, rate = study.entries[line], study.learning_rates[0]
        resolved = study_runs.resolve(entry, line, path.parent)
        planned = study_runs.plan_run(
            resolved, tmp_path / "line", rate, 7, entry.seed_keys
        ).settings
        values = entry.set | {LEARNING_RATE: rate} | dict.fromkeys(entry.seed_keys, 7)
        for key, value in values.items():
            assert reduce(dict.__getitem__, key.split("."), planned) == value


def test_scorers_are_imported_where_they_are_named_alone():
    config = str(ROOT / "configs" / "miniature" / "tera.yaml")
    code = (
        f"import atexit, sys; sys.argv = ['tera_pl', 'fit', '--config', {config!r}, "
        "'--print_config']\n"
        "scorers = {'bert_score', 'nltk', 'rouge_score'}\n"
        "atexit.register(lambda: print('found', sorted(scorers & set(sys.modules))))\n"
        "from tera_pl.__main__ import main; main(sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "seed_everything" in done.stdout
    assert done.stdout.endswith("found []\n")


def test_there_are_configs():
    assert CONFIGS
