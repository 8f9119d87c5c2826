"""Ranks that cannot be computed cost a run a row and a warning, and nothing else."""

import csv
from types import SimpleNamespace

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from tera_pl.callbacks import ranks
from tera_pl.callbacks.ranks import RankLogger


@pytest.fixture
def log(tiny_backbone, tmp_path, monkeypatch):
    """Log the ranks of an adapter as at the end of a run; give the rows of ranks.csv."""
    monkeypatch.setattr(ranks, "run_directory", lambda trainer: tmp_path)
    monkeypatch.setattr(ranks, "tensorboard", lambda trainer: [])

    def run(config):
        config.target_modules, config.task_type = {"q_proj", "v_proj"}, "CAUSAL_LM"
        torch.manual_seed(0)
        base = AutoModelForCausalLM.from_pretrained(tiny_backbone)
        task = SimpleNamespace(model=peft.get_peft_model(base, config), device_mesh=None)
        trainer = SimpleNamespace(is_global_zero=True, global_step=7, loggers=[])
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
