"""Records become the tokens that the stated rule gives, and come back as text."""

import dataclasses

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import ByT5Tokenizer

from datamodules.batching import EvalCollator
from datamodules.encoding import ALPACA, Encoding
from datamodules.special_tokens import prepare_tokenizer
from datamodules.tokenization import encode
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
    supervised = [token for token in row["labels"] if token != -100]
    assert tokenizer.decode(supervised, skip_special_tokens=True) == response
    assert tokenizer.decode(row["prompt_ids"], skip_special_tokens=True) == prompt
    assert [
        i for i, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100
    ] == supervised


def test_cache_is_found_again_and_keyed_by_content(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("datamodules.tokenization.CACHED_FROM", 1)
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


@pytest.mark.parametrize("tokenize", ["separate", "joint"])
@pytest.mark.parametrize("loss_on", ["response", "all"])
@pytest.mark.parametrize("eval_template", [None, "Question : {instruction}"])
def test_what_is_not_needed_is_not_tokenized_and_changes_nothing(
    tokenize, loss_on, eval_template, tokenizer
):
    encoding = dataclasses.replace(
        PLAIN,
        tokenize=tokenize,
        loss_on=loss_on,
        eval_template=eval_template,
        max_length=8,
        allow_truncated_responses=True,
    )
    records = [record("What color " * n, "blue green " * m) for n in (1, 2) for m in (1, 2, 3)]
    both = encode(records, tokenizer, encoding)
    train = encode(records, tokenizer, encoding, for_generation=False)
    own = {"prompt_ids", "eval_length", "num_eval_prompt_cut"}
    assert set(both.column_names) - set(train.column_names) == own
    assert both.remove_columns(list(own)).to_list() == train.to_list()
    for item, row in zip(records, both, strict=True):
        prompt = tokenizer(encoding.eval_prompt(item["prompt"]), add_special_tokens=False)
        assert row["prompt_ids"] == [tokenizer.bos_token_id, *prompt["input_ids"]]
        whole = 2 + len(item["prompt"].split()) + len(item["response"].split())
        assert row["num_prompt_cut"] + row["num_response_cut"] == max(0, whole - 8)


@pytest.mark.parametrize("tokenize", ["separate", "joint"])
def test_a_pad_token_that_is_the_eos_token_costs_no_label(tokenize, tokenizer):
    """SmolLM2 and many others pad with EOS: the end of a response is supervised all the same."""
    records = [record("What color", "blue ."), record("What", "red")]
    encoding = dataclasses.replace(PLAIN, tokenize=tokenize)
    batches = {}
    for pad in ("<pad>", "</s>"):
        copy = type(tokenizer).from_pretrained(tokenizer.name_or_path)
        prepare_tokenizer(copy, dataclasses.replace(encoding, pad_token=pad))
        assert copy.pad_token == pad
        rows = [{**row, "record": {}} for row in encode(records, copy, encoding)]
        batches[pad] = EvalCollator(copy.pad_token_id)(rows)
    other, same = batches["<pad>"], batches["</s>"]
    eos = tokenizer.eos_token_id
    assert [[t for t in row if t != -100][-1] for row in same["labels"].tolist()] == [eos, eos]
    for name in ("labels", "attention_mask", "prompt_attention_mask"):
        assert same[name].tolist() == other[name].tolist()
    # A token of text that equals padding keeps its attention.
    assert same["attention_mask"].sum().item() == sum(len(row["input_ids"]) for row in rows)


def test_a_pad_token_that_is_a_word_is_refused(tokenizer):
    """`null` on a command line may arrive as the text None, a word that SmolLM2 has a token for."""
    copy = type(tokenizer).from_pretrained(tokenizer.name_or_path)
    copy.add_tokens(["None"])
    with pytest.raises(ValueError, match=r"pad_token: 'None' is a token of ordinary text"):
        prepare_tokenizer(copy, dataclasses.replace(PLAIN, pad_token="None"))


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


def test_tokenizers_in_python_are_not_cached(monkeypatch, tmp_path):
    monkeypatch.setattr("datamodules.tokenization.CACHED_FROM", 1)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    tokenizer = ByT5Tokenizer()
    record = {"prompt": "a", "response": "b", "id": "0"}
    row = encode([record], tokenizer, Encoding(template="{instruction}", add_bos=False))[0]
    assert tokenizer.decode(row["input_ids"]) == "ab</s>"
    assert not list(tmp_path.iterdir())
