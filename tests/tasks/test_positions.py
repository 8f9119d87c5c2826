"""Sequences that a model has no positions for are refused before weights load."""

import json

import pytest
from transformers import BloomConfig, GPT2Config, LlamaConfig

from tera_pl.cli import main
from tera_pl.errors import UserError
from tera_pl.tasks.positions import check_positions

LLAMA = LlamaConfig(max_position_embeddings=100)


class Data:
    def __init__(self, example=(50, "train.json:3"), prompt=(40, "test.json:7")):
        self.found = {"example": example, "prompt": prompt}

    def longest_sequences(self, split):
        return self.found if split != "train" else {"example": self.found["example"]}


def check(data, stage="fit", config=LLAMA, virtual=0, new=10, scored=True):
    check_positions(
        config, data, stage, virtual_tokens=virtual, max_new_tokens=new, scored=lambda _: scored
    )


@pytest.mark.parametrize("config", [LLAMA, GPT2Config(n_positions=100)])
def test_every_position_can_be_used_and_no_more(config):
    check(Data(example=(100, ""), prompt=(90, "")), config=config)
    with pytest.raises(UserError, match=r"train\.json:3 \(train\): 101 tokens .*max_length to 100"):
        check(Data(example=(101, "train.json:3")), config=config)
    message = r"test\.json:7 \(val\): a prompt of 91 tokens .*max_eval_prompt_length to 90 or less"
    with pytest.raises(UserError, match=message):
        check(Data(prompt=(91, "test.json:7")), config=config)


def test_candidates_count_where_they_are_scored():
    data = Data(prompt=(9_117, "x"))
    data.found["candidate"] = (100, "test.json:7")

    def check_choices(data, **settings):
        settings = {"virtual_tokens": 0, "max_new_tokens": 90, "scored": bool} | settings
        check_positions(LLAMA, data, "test", by_likelihood=True, **settings)

    # Neither prompts nor answers of generation count.
    check_choices(data)
    with pytest.raises(UserError, match=r"json:7 \(test\): a candidate of 100 tokens .*virtual"):
        check_choices(data, virtual_tokens=3)
    data.found["candidate"] = (101, "test.json:7")
    check_choices(data, scored=lambda _: False)
    with pytest.raises(UserError, match=r"more than the 100 positions of the model"):
        check_choices(data)


def test_only_what_a_stage_uses_counts():
    long_example, long_prompt = Data(example=(101, "x")), Data(prompt=(9_117, "x"))
    check(long_example, "predict")
    check(long_prompt, scored=False)
    for data, stage in ((long_example, "test"), (long_prompt, "test"), (long_prompt, "predict")):
        with pytest.raises(UserError):
            check(data, stage)


def test_virtual_tokens_take_positions():
    check(Data(example=(80, "")), virtual=20)
    with pytest.raises(UserError, match=r"81 tokens, the adapter's 20 virtual tokens"):
        check(Data(example=(81, "")), virtual=20)


@pytest.mark.parametrize("data", [Data(), None])
def test_answers_that_leave_no_position_are_refused_where_none_is_generated(data):
    check(data, new=60, scored=False)
    for new, virtual in ((10**9, 0), (100, 0), (99, 0), (60, 39)):
        with pytest.raises(UserError, match=rf"max_new_tokens {new}.* no room for prompts in the"):
            check(data, new=new, virtual=virtual, scored=False)


def test_a_model_or_data_that_states_no_length_is_left_alone():
    check(Data(example=(10**6, "")), config=BloomConfig())
    check(object())
    check(None)


def test_a_run_ends_in_one_line_before_weights_load(
    tiny_config, tiny_commonsense, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tera_pl.tasks.causal_lm.load_model", lambda _: pytest.fail("loaded"))
    folder = tmp_path / "data" / "openbookqa"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        path = tiny_commonsense / "openbookqa" / f"{split}.json"
        records = json.loads(path.read_text())
        if split == "test":
            records[5]["instruction"] = "What color is it ? " * 50 + records[5]["instruction"]
        (folder / path.name).write_text(json.dumps(records))
    arguments = ["--config", str(tiny_config), f"--data.init_args.path={tmp_path / 'data'}"]
    arguments += ["--data.init_args.encoding.max_length=250"]
    assert main(["test", *arguments]) == 2
    error = [line for line in capfd.readouterr().err.splitlines() if "positions" in line]
    assert len(error) == 1
    assert "openbookqa/test.json:5 (test): a prompt of " in error[0]
    assert "max_eval_prompt_length to 253 or less" in error[0]
