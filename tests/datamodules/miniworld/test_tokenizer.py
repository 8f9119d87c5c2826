import json
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import datamodules.miniworld
from datamodules.miniworld.questions import questions
from datamodules.miniworld.tokenizer import build_tokenizer

BASE = Path(datamodules.miniworld.__file__).parent / "base"


def test_the_shipped_tokenizer_is_the_one_that_is_built(tmp_path):
    build_tokenizer().save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert json.loads((BASE / name).read_text()) == json.loads((tmp_path / name).read_text())


def test_answers_survive_the_round_trip():
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    for record in questions("test", 200, seed=0):
        ids = tokenizer(record["response"]).input_ids
        assert tokenizer.decode(ids) == record["response"]
        assert ids[-1] == tokenizer.convert_tokens_to_ids(record["reference"])


def test_case_and_white_space_do_not_matter():
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    assert tokenizer("Answer1:\n\nRed").input_ids == tokenizer("answer1 : red").input_ids


def test_special_tokens():
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    assert tokenizer.convert_tokens_to_ids(["<unk>", "<s>", "</s>", "<pad>"]) == [0, 1, 2, 3]
    assert tokenizer("it is red. </s> it is").input_ids.count(tokenizer.eos_token_id) == 1
    assert tokenizer("zebra").input_ids == [tokenizer.unk_token_id]


def test_the_shipped_configuration_fits_the_tokenizer_and_twelve_megabytes():
    config = AutoConfig.from_pretrained(BASE)
    assert config.vocab_size == len(AutoTokenizer.from_pretrained(BASE))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert 4 * sum(parameter.numel() for parameter in model.parameters()) <= 12e6
    attention = model.model.layers[0].self_attn
    assert attention.q_proj.weight.shape == (256, 256)
    assert attention.v_proj.weight.shape == (128, 256)
