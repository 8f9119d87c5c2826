"""Records become the tokens that the stated rule gives, and come back as text."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.encoding import ALPACA, Encoding, encode, prepare_tokenizer
from tests.soak import more

PLAIN = Encoding(template="{instruction}")


def record(prompt, response):
    return {
        "prompt": prompt,
        "response": response,
        "task": "t",
        "reference": "r",
        "choices": None,
        "id": "file:0",
    }


def test_tokens_and_mask_by_hand(tokenizer):
    row = encode([record("What color", "blue .")], tokenizer, PLAIN)[0]
    ids = tokenizer.convert_tokens_to_ids
    prompt = [ids("<s>"), ids("What"), ids("color")]
    answer = [ids("blue"), ids("."), ids("</s>")]
    assert row["input_ids"] == prompt + answer
    assert row["labels"] == [-100] * 3 + answer
    assert row["prompt_ids"] == prompt


def test_loss_on_all_and_no_special_tokens(tokenizer):
    encoding = dataclasses.replace(PLAIN, loss_on="all", add_bos=False, add_eos=False)
    row = encode([record("What color", "blue")], tokenizer, encoding)[0]
    assert (
        row["labels"]
        == row["input_ids"]
        == tokenizer.convert_tokens_to_ids(["What", "color", "blue"])
    )


def test_long_prompt_loses_its_start_and_is_counted(tokenizer):
    encoding = dataclasses.replace(PLAIN, max_length=6)
    row = encode([record("What color is the sky ?", "blue")], tokenizer, encoding)[0]
    kept = tokenizer.convert_tokens_to_ids(["the", "sky", "?"])
    assert row["input_ids"][1:4] == kept
    assert len(row["input_ids"]) == 6
    assert (row["num_prompt_cut"], row["num_response_cut"]) == (3, 0)
    # What the model sees at generation is not cut.
    assert len(row["prompt_ids"]) == 7


def test_long_response_is_an_error_unless_allowed(tokenizer):
    encoding = dataclasses.replace(PLAIN, max_length=4)
    records = [record("What", "blue green red blue green red")]
    with pytest.raises(ValueError, match=r"file:0: the response loses 4 tokens .*max_length 4"):
        encode(records, tokenizer, encoding)
    allowed = dataclasses.replace(encoding, allow_truncated_responses=True)
    row = encode(records, tokenizer, allowed)[0]
    assert len(row["input_ids"]) == 4
    assert row["num_response_cut"] == 4


@settings(max_examples=more(50))
@given(data=st.data())
def test_round_trip(data, tokenizer):
    words = st.sampled_from(["blue", "green", "red", "sky", "answer1", "/", "?"])
    prompt = " ".join(data.draw(st.lists(words, min_size=1, max_size=20)))
    response = " ".join(data.draw(st.lists(words, min_size=1, max_size=20)))
    row = encode([record(prompt, response)], tokenizer, PLAIN)[0]
    learnt = [token for token in row["labels"] if token != -100]
    assert tokenizer.decode(learnt, skip_special_tokens=True) == response
    assert tokenizer.decode(row["prompt_ids"], skip_special_tokens=True) == prompt
    assert [
        i for i, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100
    ] == learnt


def test_cache_is_found_again_and_keyed_by_content(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("datamodules.encoding.CACHED_FROM", 1)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    records = [record("What color", "blue"), record("What", "red")]
    first = encode(records, tokenizer, PLAIN)
    tokenizer(["some use"], padding=True)
    again = encode(records, tokenizer, PLAIN)
    assert len(list(tmp_path.rglob("*.arrow"))) == 1
    assert again.to_list() == first.to_list()
    encode(records, tokenizer, dataclasses.replace(PLAIN, add_eos=False))
    encode(records[:1], tokenizer, PLAIN)
    assert len(list(tmp_path.rglob("*.arrow"))) == 3


def test_template_keeps_braces_of_the_instruction():
    assert Encoding().eval_prompt("a {b} {instruction}") == ALPACA.replace(
        "{instruction}", "a {b} {instruction}"
    )


@pytest.mark.parametrize("template", ["", "x", "{instruction}{instruction}"])
def test_template_without_one_instruction_is_refused(template):
    with pytest.raises(ValueError, match=r"encoding\.template"):
        Encoding(template=template)


def test_missing_special_tokens_are_told(tokenizer):
    copy = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(ValueError, match="has no eos token"):
        prepare_tokenizer(copy, PLAIN)
    copy.eos_token = "</s>"
    with pytest.raises(ValueError, match=r"has no bos token: set encoding\.add_bos"):
        prepare_tokenizer(copy, PLAIN)
    no_bos = dataclasses.replace(PLAIN, add_bos=False)
    with pytest.raises(ValueError, match=r"no pad token: set data\.init_args\.encoding\.pad_token"):
        prepare_tokenizer(copy, no_bos)
    with pytest.raises(ValueError, match="no token '<nope>'"):
        prepare_tokenizer(copy, dataclasses.replace(no_bos, pad_token="<nope>"))
    prepare_tokenizer(copy, dataclasses.replace(no_bos, pad_token="<pad>"))
    assert copy.pad_token_id == tokenizer.pad_token_id
