"""Every method that PEFT registers works, or is refused in one line: docs/peft_methods.md.

`make test` tries each on a tiny model without a Trainer and compares with the committed table. With
TERA_PL_SOAK=1 the command line runs each on MiniWorld, from fit to merge, and the table is compared
with that, or written anew with TERA_PL_WRITE_DOCS=1.
"""

import copy
import csv
import json
import os
import shutil
from contextlib import suppress

import peft
import pytest
import torch
import yaml

from tera_pl.__main__ import main as run_command
from tera_pl.adapters.supported import NeedsWeightsError
from tera_pl.analysis.delta_weights import adapted_layers, layer_singular_values
from tera_pl.analysis.merged_layers import TOLERANCE
from tera_pl.analysis.wider_dtype import ALLOWED_NOISE
from tera_pl.cli import main as run_trainer
from tera_pl.errors import UserError
from tera_pl.models.backbone import Backbone, add_adapter, load_meta_model, load_model
from tests.config.composition import compose
from tests.conftest import ROOT
from tests.methods.peft_methods import TABLE, as_row, classes, committed_rows, settings_of
from tests.methods.short_runs import NO, WRONG, YES, close, merged_logits, run_two_steps

KINDS = classes()
SOAK = os.environ.get("TERA_PL_SOAK") == "1"


def build(kind, backbone):
    """The adapted model as a run has it before its first step."""
    config = KINDS[kind](**settings_of(kind))
    # In the order of a run: without weights first.
    with suppress(NeedsWeightsError):
        add_adapter(load_meta_model(backbone), copy.deepcopy(config))
    torch.manual_seed(1)
    return add_adapter(load_model(backbone), config).train(), config


def quick_sweep(kind, backbone, folder):
    """What works, by stage, and why the first stage that does not does not."""
    try:
        model, config = build(kind, backbone)
    except (UserError, ImportError) as error:
        return {"fit": NO, "reason": str(error)}
    again, _ = build(kind, backbone)
    expected, found = run_two_steps(model, again, backbone.path, folder)
    found["test"] = YES if torch.isfinite(expected).all() else NO
    found["export"] = found["adapter"]
    found["ranks"] = ranks_of(model)
    try:
        right = close(merged_logits(model, config, backbone), expected, 1e-4)
        found["merge"] = YES if right else WRONG
    except UserError as error:
        found |= {"merge": NO, "reason": str(error)}
    return found


def ranks_of(model):
    layers = adapted_layers(model)
    if not layers:
        return NO
    with suppress(UserError):
        for layer in layers.values():
            layer_singular_values(layer)
        return YES
    return NO


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_the_table_in_the_docs_is_what_happens(kind, tiny_backbone, tmp_path):
    found = quick_sweep(kind, Backbone(path=str(tiny_backbone), dtype="float32"), tmp_path)
    if kind == "ADAMSS" and found["fit"] == YES:
        pytest.skip("scikit-learn is installed: the table is of an environment without it")
    cells = committed_rows()[KINDS[kind].__name__]
    assert as_row(kind, found).strip("| ").split(" | ")[1:7] == cells[:6]
    assert NO not in (found["fit"], found.get("resume")) or found["reason"]


def test_every_method_is_in_the_table():
    assert committed_rows().keys() == {config.__name__ for config in KINDS.values()}
    assert len(KINDS) >= 45


def write_config(kind, folder):
    """Two steps of batch size 8 on MiniWorld, with a checkpoint after each."""
    content = compose(ROOT / "configs" / "quickstart.yaml")
    init = content["model"]["init_args"]
    init["backbone"]["path"] = str(ROOT / "datamodules" / "miniworld" / "base")
    adapter = {"class_path": f"peft.{KINDS[kind].__name__}", "init_args": settings_of(kind)}
    init["adapter"] = adapter
    init["optimizer"]["init_args"]["lr"] = 0.01
    init["schedule"]["warmup_steps"] = 1
    content["data"]["init_args"] |= {"batch_size": 8, "num_test": 20}
    content["trainer"] |= {"max_steps": 2, "val_check_interval": 1, "limit_val_batches": 1}
    content["trainer"] |= {"num_sanity_val_steps": 0, "enable_progress_bar": False}
    content["trainer"]["logger"]["init_args"] = {"save_dir": str(folder / "runs"), "name": "run"}
    content["checkpoint"] = {"monitor": "val/loss", "save_top_k": -1, "filename": "step{step}"}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def whole_sweep(kind, folder, capfd):
    """What works by the command line; what does not is one line and exit code 2."""
    found = {}

    def works(stage, call, *arguments):
        capfd.readouterr()
        try:
            code = call(list(arguments))
        except SystemExit as stop:
            code = stop.code
        if code != 0:
            told = capfd.readouterr().err.splitlines()
            (line,) = [line for line in told if line.startswith("error: ")]
            assert code == 2
            found["reason"] = line.removeprefix("error: ")
        found[stage] = NO if code else YES
        return code == 0

    try:  # a configuration that cannot be built is a matter of tests/config/test_construction.py
        KINDS[kind](**settings_of(kind))
    except ImportError as error:
        return {"fit": NO, "reason": str(error)}
    path, run = write_config(kind, folder), folder / "runs" / "run" / "version_0"
    if not works("fit", run_trainer, "fit", "--config", path):
        return found
    checkpoints, resumed = run / "checkpoints", run.with_name("version_1") / "checkpoints"
    shutil.copytree(checkpoints, resumed)
    middle, last = str(resumed / "step1.ckpt"), str(checkpoints / "last.ckpt")
    works("resume", run_trainer, "fit", "--config", path, "--ckpt_path", middle)
    whole, again = (
        torch.load(place / "last.ckpt", weights_only=True)["state_dict"]
        for place in (checkpoints, resumed)
    )
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    works("test", run_trainer, "test", "--config", path, "--ckpt_path", last)
    export = ("export", "--ckpt_path", last, "--output")
    works("export", run_command, *export, str(folder / "adapter"))
    if works("merge", run_command, *export, str(folder / "merged"), "--merge"):
        report = json.loads((folder / "merged" / "export_report.json").read_text())
        found["ratio"] = report["largest_logit_error"] / report["largest_allowed_logit_error"]
    ranks = run / "ranks.csv"
    rows = list(csv.DictReader(ranks.open())) if ranks.exists() else []
    found["ranks"] = YES if rows and all(row["rank"] for row in rows) else NO
    return found


HEAD = """# The methods of PEFT

What happens with each of the {number} methods that PEFT {version} registers, on MiniWorld: `fit`
of two steps, `resume` from the first to the same bits, `test`, `export` as an adapter,
`export --merge`, and whether `ranks.csv` has ranks of every weight update. The settings are in
`tests/methods/peft_methods.py`. What is not supported is one line and exit code 2: before any
weight is loaded, except for `merge` of methods that PEFT initializes from the weights.

Written by
`TERA_PL_SOAK=1 TERA_PL_WRITE_DOCS=1 python -m pytest tests/methods/test_peft_methods.py`;
`make test` compares it with a short run of each method on a smaller model.

A weight update is the merged weight less the base weight, both in float64, by the method's own
`merge` on a copy of the layer (`tera_pl/analysis/merged_layers.py`). A layer is merged only if it
computes what the adapted layer does, to {tolerance:.1e} of its largest output, and no weight is
more than half a step of its type away from the exact one. The logits of the merged model, read
again from its folder, may differ from those of the adapted model in a wider type by at most
{noise:g} times what rounding does to the adapted model itself (`tera_pl/analysis/wider_dtype.py`).
The last column but one is the share of that bound that was found here.

| method | fit | resume | test | export | merge | ranks | share of the bound | why not |
|---|---|---|---|---|---|---|---|---|
"""


@pytest.mark.skipif(not SOAK, reason="minutes: TERA_PL_SOAK=1 runs it")
def test_the_command_line_agrees_on_miniworld(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = {}
    for kind in KINDS:
        (tmp_path / kind).mkdir()
        rows[kind] = whole_sweep(kind, tmp_path / kind, capfd)
        shutil.rmtree(tmp_path / kind)
    if os.environ.get("TERA_PL_WRITE_DOCS"):
        head = HEAD.format(
            number=len(KINDS), version=peft.__version__, tolerance=TOLERANCE, noise=ALLOWED_NOISE
        )
        TABLE.write_text(head + "".join(f"{as_row(kind, rows[kind])}\n" for kind in KINDS))
    committed = committed_rows()
    for kind, found in rows.items():
        assert as_row(kind, found).split(" | ")[1:7] == committed[KINDS[kind].__name__][:6]
