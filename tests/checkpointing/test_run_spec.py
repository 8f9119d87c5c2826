"""A tokenizer and an architecture are known by what they do, not by where they lie."""

import json
import shutil

import pytest
from transformers import AutoTokenizer

from tera_pl.checkpointing.run_spec import describe_tokenizer
from tera_pl.models.backbone import Backbone
from tera_pl.models.base_description import describe_base


def test_use_and_place_leave_a_tokenizer_what_it_is(tiny_backbone, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_backbone)
    before = describe_tokenizer(tokenizer)
    tokenizer(["What color", "sky"], padding=True, truncation=True, max_length=1)
    tokenizer.save_pretrained(tmp_path)
    assert describe_tokenizer(tokenizer) == before
    assert describe_tokenizer(AutoTokenizer.from_pretrained(tmp_path)) == before


@pytest.mark.parametrize("change", ["vocabulary", "normalization", "special", "added"])
def test_another_tokenizer_is_seen(change, tiny_backbone, tmp_path):
    before = describe_tokenizer(AutoTokenizer.from_pretrained(tiny_backbone))
    folder = shutil.copytree(tiny_backbone, tmp_path / "base")
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    if change == "vocabulary":
        vocabulary = content["model"]["vocab"]
        vocabulary["sky"], vocabulary["blue"] = vocabulary["blue"], vocabulary["sky"]
    elif change == "normalization":
        content["normalizer"] = {"type": "Lowercase"}
    path.write_text(json.dumps(content))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if change == "special":
        tokenizer.eos_token = "sky"
    elif change == "added":
        tokenizer.add_tokens(["new"])
    after = describe_tokenizer(tokenizer)
    assert after != before
    assert (after["eos_token"] != before["eos_token"]) == (change == "special")
    assert (after["size"] != before["size"]) == (change == "added")


def test_architecture_is_what_changes_the_output(tiny_backbone, tmp_path):
    before = describe_base(Backbone(str(tiny_backbone)))
    folder = shutil.copytree(tiny_backbone, tmp_path / "base")
    path = folder / "config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"transformers_version": "9.9", "use_cache": False}))
    after = describe_base(Backbone(str(folder)))
    assert (after["config"], after["config_sha256"]) == (before["config"], before["config_sha256"])
    assert after["path"] != before["path"]
    assert after["commit"] is None
    path.write_text(json.dumps(content | {"rms_norm_eps": 1e-3}))
    after = describe_base(Backbone(str(folder)))
    assert after["config"] != before["config"]
    assert after["config_sha256"] != before["config_sha256"]
