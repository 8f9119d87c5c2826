"""Ranks that cannot be computed cost a run a row and a warning, and nothing else."""

import csv
from types import SimpleNamespace

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from tera_pl.analysis.spectra import Spectrum
from tera_pl.callbacks import ranks
from tera_pl.callbacks.ranks import RankLogger
from tera_pl.reporting.runs import Run
from tests.conftest import code_blocks


@pytest.fixture
def log(tiny_backbone, tmp_path, monkeypatch):
    """Log the ranks of an adapter as at the end of a run; give the rows of ranks.csv."""
    monkeypatch.setattr(ranks, "run_directory", lambda trainer: tmp_path)

    def run(config):
        config.target_modules, config.task_type = {"q_proj", "v_proj"}, "CAUSAL_LM"
        torch.manual_seed(0)
        base = AutoModelForCausalLM.from_pretrained(tiny_backbone)
        model = peft.get_peft_model(base, config)
        task = SimpleNamespace(model=model, device_mesh=None, checkpoint_step=7)
        trainer = SimpleNamespace(is_global_zero=True, global_step=9, loggers=[])
        RankLogger().on_train_end(trainer, task)
        path = tmp_path / "ranks.csv"
        return list(csv.DictReader(path.open())) if path.exists() else []

    return run


def test_a_method_without_an_update_has_rows_that_say_so(log):
    with pytest.warns(
        UserWarning, match="no ranks of .*q_proj and 3 more: .*not supported"
    ) as caught:
        rows = log(peft.LilyConfig(r=2))
    assert len([one for one in caught if "no ranks" in str(one.message)]) == 1
    assert [row["rank"] for row in rows] == [""] * 4
    assert all("not supported for Lily" in row["note"] for row in rows)


def test_a_layer_that_fails_leaves_the_others_their_ranks(log, monkeypatch):
    right = ranks.layer_singular_values

    def wrong(layer):
        if layer.out_features == 12:
            raise RuntimeError("the SVD did not\nconverge")
        return right(layer)

    monkeypatch.setattr(ranks, "layer_singular_values", wrong)
    with pytest.warns(UserWarning, match="v_proj and 1 more: RuntimeError: the SVD did not conv"):
        rows = log(peft.LoraConfig(r=2, init_lora_weights=False))
    assert {row["module"]: row["rank"] for row in rows} == {"q_proj": "2", "v_proj": ""}
    assert {row["step"] for row in rows} == {"7"}


def test_a_defect_is_a_warning(log, monkeypatch):
    monkeypatch.setattr(ranks, "adapted_layers", None)
    with pytest.warns(UserWarning, match="ranks are not logged: TypeError"):
        assert log(peft.LoraConfig(r=2)) == []


def test_rows_of_a_validation_come_once_and_those_of_the_best_checkpoint_last(
    tiny_backbone, tmp_path, monkeypatch
):
    monkeypatch.setattr(ranks, "run_directory", lambda trainer: tmp_path)
    monkeypatch.setattr(ranks, "is_installed", lambda name: False)
    base = AutoModelForCausalLM.from_pretrained(tiny_backbone)
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    model = peft.get_peft_model(base, config)
    task = SimpleNamespace(model=model, device_mesh=None, checkpoint_step=2)
    logged = []
    logger = SimpleNamespace(log_metrics=lambda values, step: logged.append(step))
    state = SimpleNamespace(fn="fit")
    trainer = SimpleNamespace(
        is_global_zero=True, loggers=[logger], state=state, sanity_checking=False
    )
    callback = RankLogger()
    for trainer.global_step in (2, 4, 4):  # killed after the second validation, and resumed
        callback.on_validation_end(trainer, task)
    callback.on_train_end(trainer, task)
    rows = list(csv.DictReader((tmp_path / "ranks.csv").open()))
    assert [row["step"] for row in rows] == ["4", "4", "2", "2"]
    assert logged == [2, 4]
    assert [row["step"] for row in Run(tmp_path, {}).ranks] == ["2", "2"]


@pytest.mark.parametrize(
    ("every", "small", "expected"), [(None, True, 3), (None, False, 0), (0, True, 0), (2, False, 1)]
)
def test_after_which_validations(every, small, expected, monkeypatch):
    monkeypatch.setattr(ranks, "_are_small", lambda model: small)
    steps = []
    monkeypatch.setattr(RankLogger, "_log", lambda self, trainer, task, step: steps.append(step))
    state = SimpleNamespace(fn="fit")
    trainer = SimpleNamespace(state=state, sanity_checking=False, global_step=5)
    callback = RankLogger(every)
    for _ in range(3):
        callback.on_validation_end(trainer, SimpleNamespace(model=None))
    assert len(steps) == expected


def test_updates_of_a_large_model_are_not_small(tiny_backbone):
    def adapted(size):
        net = torch.nn.Sequential(torch.nn.Linear(size, size, device="meta"))
        config = peft.LoraConfig(r=2, target_modules=["0"])
        return peft.inject_adapter_in_model(config, net, low_cpu_mem_usage=True)

    assert ranks._are_small(adapted(2000))
    assert not ranks._are_small(adapted(2200))


def test_the_figure_has_a_color_for_each_module_and_the_width_of_tensorboard():
    spectrum = Spectrum(3, 0.1, 2.5, 2.7, 1.0, 4, 3)
    figure = ranks._draw({"q_proj": [spectrum] * 2, "v_proj": [spectrum] * 2})
    (axes,) = figure.axes
    colors = {line.get_label(): line.get_color() for line in axes.get_lines()}
    assert colors["q_proj"] != colors["v_proj"]
    assert figure.get_figwidth() * figure.dpi == 350


def test_the_script_of_the_page_measures(capsys):
    (script,) = code_blocks("docs/loggers.md", "python")
    exec(
        script["text"].replace("2048, 2048", "64, 64").replace("576", "24").replace("192", "8"), {}
    )
    assert len(capsys.readouterr().out.split()) == 3
