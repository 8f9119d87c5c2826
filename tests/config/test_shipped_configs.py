"""Every shipped YAML parses against the code, and says what it is for."""

import inspect
import pkgutil
import re
import subprocess
import sys
from functools import reduce

import pytest
import yaml

from tera_pl.cli import main
from tera_pl.studies import runs as study_runs
from tera_pl.studies.definition import LEARNING_RATE, read_study
from tests.config.composition import compose, fragments
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
METHOD_FILES = sorted((ROOT / "configs" / "base" / "methods").glob("*.yaml"))
RIVALS = [path for path in METHOD_FILES if path.stem not in METHODS | {"tera_recommended"}]
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
    for keys, value in items(compose(path)):
        assert resolved[keys] == value


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_no_setting_of_another_adapter_remains(path):
    """jsonargparse keeps those that the new class has too: LoRETTA would have TeRA's modes."""
    adapters = [f.get("model", {}).get("init_args", {}).get("adapter") for f in fragments(path)]
    given = [adapter for adapter in adapters if adapter is not None]
    composed = compose(path)["model"]["init_args"]["adapter"]
    if composed is None:
        assert not given
        return
    own = inspect.signature(pkgutil.resolve_name(composed["class_path"])).parameters
    kept = {key for adapter in given for key in adapter.get("init_args", {}) if key in own}
    assert kept == composed["init_args"].keys()


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_header_says_what_it_is_for(path):
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any(line.startswith("# Run: ") for line in header)
    assert "quickstart" in path.name or any(str(path.relative_to(ROOT)) in line for line in header)
    if path.parent.parent.name in PAPER:
        text = " ".join(header)
        assert "For: " in text
        assert "Ours: " in text


@pytest.mark.parametrize("path", METHOD_FILES, ids=name)
def test_method_file_says_how_it_differs_from_the_paper(path):
    header = path.read_text().partition("\nmodel:")[0]
    assert "Differs from the paper in: " in header.replace("\n# ", " ")


def test_gradient_checkpointing_is_on_where_memory_asks_for_it():
    """As docs/memory.md has it, whose numbers are those of `estimate`."""
    rows = re.findall(r"(?m)^\| (\S+/llama\S+) \| (.*) \|$", (ROOT / "docs/memory.md").read_text())
    paths = [path for path in CONFIGS if path.parent.match("*/llama*")]
    assert [row for row, _ in rows] == [name(path.with_suffix("")) for path in paths]
    for path, (_, cells) in zip(paths, rows, strict=True):
        step, generation, state, _ = (cell.strip(" ~") for cell in cells.split("|"))
        needed = max(float(cell or 0) for cell in (step, generation))
        assert state == ("on" if needed > 76 else "off")
        backbone = compose(path)["model"]["init_args"]["backbone"]
        assert backbone.get("gradient_checkpointing", False) == (state == "on")


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=name)
def test_protocol_given_last_wins_whole(protocol, capsys):
    benchmark = protocol.parent.name
    config = ROOT / "configs" / benchmark / "llama3_8b" / "tera.yaml"
    resolved = dict(items(resolve(capsys, config, protocol)))
    given = dict(items(compose(protocol)))
    assert {keys: resolved[keys] for keys in given} == given
    assert resolved["data", "init_args", "protocol"] == protocol.stem
    # A field that one protocol sets and another leaves would stay behind when they change places.
    others = (dict(items(compose(path))) for path in protocol.parent.glob("*.yaml"))
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


@pytest.mark.parametrize("backbone", ["llama2_7b", "llama3_8b"])
@pytest.mark.parametrize("method", RIVALS, ids=lambda path: path.stem)
def test_rival_on_a_llama_is_four_fragments(method, backbone, capsys):
    """As docs/rivals.md has it."""
    parts = "a100", "protocols/commonsense170k/tera_paper", f"backbones/{backbone}"
    given = [ROOT / "configs" / "base" / f"{part}.yaml" for part in parts]
    resolved = dict(items(resolve(capsys, *given, method)))
    settings = dict(items(compose(method)))
    assert {keys: resolved[keys] for keys in settings} == settings


@pytest.mark.parametrize("benchmark", sorted(PAPER))
@pytest.mark.parametrize("backbone", ["llama2_7b", "llama3_8b"])
def test_methods_differ_in_adapter_and_learning_rate_alone(benchmark, backbone):
    folder = ROOT / "configs" / benchmark / backbone
    paths = [path for path in folder.glob("*.yaml") if path not in STUDIES]
    composed = {path.stem: compose(path) for path in paths}
    assert composed.keys() == METHODS
    for method, config in composed.items():
        init = config["model"]["init_args"]
        assert init["optimizer"]["init_args"].pop("lr") > 0
        del init["adapter"]
        logger = config["trainer"]["logger"]["init_args"]
        assert logger.pop("name") == f"{benchmark}_{backbone}_{method}"
        # How the base is held in memory changes no result; full fine-tuning needs float32.
        init["backbone"].pop("gradient_checkpointing", None)
        full = (init["backbone"].pop("dtype"), config["trainer"].pop("precision"))
        expected = ("float32", "bf16-mixed") if method == "full" else ("bfloat16", "32-true")
        assert full == expected
    assert all(config == composed["tera"] for config in composed.values())


@pytest.mark.parametrize(
    "path", [path for path in CONFIGS if path.parent.match("*/llama*")], ids=name
)
def test_run_file_has_only_what_differs(path):
    """So that the rank of LoRA, or any other setting of a method, is one edit."""
    benchmark, backbone, method = path.parent.parent.name, path.parent.name, path.stem
    given = yaml.safe_load(path.read_text())
    bases = [
        str((path.parent / base).resolve().relative_to(ROOT / "configs")) for base in given["base"]
    ]
    keys = {keys for keys, _ in items(given)} - {
        ("base",),
        ("trainer", "logger", "init_args", "name"),
    }
    init = ("model", "init_args")
    rate = (*init, "optimizer", "init_args", "lr")
    adapter = (*init, "adapter", "init_args")
    if method == "tera_identity":
        assert bases == [f"{benchmark}/{backbone}/tera.yaml"]
        assert keys == {(*adapter, "factor_init")}
        return
    assert bases == [
        "base/a100.yaml",
        f"base/protocols/{benchmark}/tera_paper.yaml",
        f"base/backbones/{backbone}.yaml",
        f"base/methods/{method}.yaml",
    ]
    keys -= {(*init, "backbone", "gradient_checkpointing")}
    if method == "tera":
        keys = {key for key in keys if key[: len(adapter)] != adapter}
    assert keys == {rate}


def test_miniature_has_the_learning_rates_that_its_study_found():
    """As docs/results.md has them; the study of the report takes the same."""
    text = (ROOT / "docs/results.md").read_text().partition("## All methods")[2].partition("## ")[0]
    found = dict(re.findall(r"(?m)^\| (\w+) \| \S+ \| \S+ \| \S+ \| (\S+) \|", text))
    report = read_study(ROOT / "configs/miniature/study_report.yaml")
    rivals = read_study(ROOT / "configs/miniature/study_rivals.yaml").entries
    miniatures = [path for path in CONFIGS if path.parent.name == "miniature"]
    paths = [path for path in miniatures if path.stem not in rivals]
    assert found.keys() == report.entries.keys() == {path.stem for path in paths}
    for path in paths:
        config = compose(path)
        rate = config["model"]["init_args"]["optimizer"]["init_args"]["lr"]
        assert rate == float(found[path.stem])
        rates = report.entries[path.stem].learning_rates or report.learning_rates
        assert rates == [rate]


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
