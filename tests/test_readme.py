"""The YAML and the Python of README.md and docs/usage.md, run as they stand."""

import pytest
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tera_pl.cli import main
from tera_pl.studies.definition import read_study
from tests.conftest import ROOT, code_blocks


def test_configuration_is_valid_and_every_value_is_used(tmp_path, monkeypatch, capsys):
    text = code_blocks("README.md", "yaml")[0]["text"]
    (tmp_path / "mine.yaml").write_text(text)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as error:
        main(["fit", "--config", "mine.yaml", "--print_config"])
    assert error.value.code == 0
    resolved = yaml.safe_load(capsys.readouterr().out)
    given = yaml.safe_load(text)
    for key, value in given["model"]["init_args"]["adapter"]["init_args"].items():
        assert resolved["model"]["init_args"]["adapter"]["init_args"][key] == value
    assert resolved["data"]["class_path"] == given["data"]["class_path"]
    assert resolved["trainer"]["max_steps"] == given["trainer"]["max_steps"]
    assert resolved["trainer"]["accelerator"] == "gpu"  # of the fragment


@pytest.mark.parametrize("page", ["README.md", "docs/usage.md"])
def test_tera_works_through_peft_alone(page, tiny_backbone):
    names = {"model": AutoModelForCausalLM.from_pretrained(tiny_backbone)}
    exec(code_blocks(page, "python")[0]["text"], names)
    assert isinstance(names["model"], PeftModel)
    assert names["model"].active_peft_config.peft_type == "TERA"


def test_study_has_a_line_for_each_entry_and_combination(tmp_path):
    path = ROOT / "configs" / "miniature" / "study_structured.yaml"
    (tmp_path / "study.yaml").write_text(code_blocks("docs/usage.md", "yaml")[0]["text"])
    (tmp_path / "tera.yaml").write_text((path.parent / "tera.yaml").read_text())
    study = read_study(tmp_path / "study.yaml")
    assert len(study.entries) == 1 + 1 + 3


def test_search_draws_what_it_says(tmp_path):
    folder = ROOT / "configs" / "miniature"
    (tmp_path / "study.yaml").write_text(code_blocks("docs/usage.md", "yaml")[1]["text"])
    (tmp_path / "tera.yaml").write_text((folder / "tera.yaml").read_text())
    search = read_study(tmp_path / "study.yaml").search
    assert (search.trials, search.pruning, len(search.space)) == (20, True, 2)
