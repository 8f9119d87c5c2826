"""`validations.json` has every validation of a run, after a resume too."""

import json
import shutil

import pytest
import yaml

from tera_pl.cli import main

pytestmark = pytest.mark.slow


def test_file_has_the_validations_before_and_after_a_resume(tiny_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = yaml.safe_load(tiny_config.read_text())
    content["trainer"]["callbacks"] = [{"class_path": "tera_pl.callbacks.ValidationScores"}]
    content["trainer"]["num_sanity_val_steps"] = 1
    content["checkpoint"] |= {"save_top_k": -1, "filename": "step{step}"}
    tiny_config.write_text(yaml.safe_dump(content))
    assert main(["fit", "--config", str(tiny_config)]) == 0
    run = tmp_path / "runs" / "run" / "version_0"
    rows = json.loads((run / "validations.json").read_text())
    assert [row["step"] for row in rows] == [2, 4, 6, 8]
    scores = json.loads((run / "results.json").read_text())["fit"]["scores"]
    last = {k: v for k, v in scores.items() if k.startswith("val/")}
    assert rows[-1] == {"step": 8, **last}
    resumed = shutil.copytree(run, run.with_name("version_1"))
    (resumed / "validations.json").unlink()
    path = str(resumed / "checkpoints" / "step4.ckpt")
    assert main(["fit", "--config", str(tiny_config), "--ckpt_path", path]) == 0
    assert json.loads((resumed / "validations.json").read_text()) == rows
