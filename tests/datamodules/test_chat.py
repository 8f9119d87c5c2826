"""Chat templates: tokens and masks are those of `apply_chat_template`."""

import copy
import datetime
import json

import datasets
import pytest
from transformers import AutoTokenizer
from transformers.utils import chat_template_utils

from datamodules import Columns, Encoding, Instructions, Source, tokenization
from datamodules.chat import end_of_turn, prompt_text, tokenize_dialogue
from datamodules.leaks import find_leaks
from datamodules.special_tokens import prepare_tokenizer
from datamodules.tokenization import encode
from tests.conftest import ROOT

BASE = str(ROOT / "datamodules" / "miniworld" / "base")
PLAIN = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|> ' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|> ' }}{% endif %}"
)
MARKED = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ '<|assistant|> ' }}"
    "{%- generation %}{{ m['content'] + '<|end|>' }}{%- endgeneration %}"
    "{% else %}{{ '<|' + m['role'] + '|> ' + m['content'] + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|> ' }}{% endif %}"
)
# As reasoning models have it: what the assistant said is another text once a turn follows.
CHANGING = PLAIN.replace(
    "m['content'] +", "(m['content'] if loop.last or m['role'] != 'assistant' else 'red') +"
)
DIALOGUE = [
    {"role": "system", "content": "the town"},
    {"role": "user", "content": "what is the coat ?"},
    {"role": "assistant", "content": "the coat is red"},
    {"role": "user", "content": "and the food ?"},
    {"role": "assistant", "content": "the food is bread"},
]
TURNS = ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    tokenizer.add_special_tokens({"additional_special_tokens": TURNS})
    return tokenizer


def with_template(tokenizer, template):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = template
    return tokenizer


def test_mask_is_that_of_the_template_where_it_marks_the_assistant(tokenizer):
    marked = with_template(tokenizer, MARKED)
    expected = marked.apply_chat_template(
        DIALOGUE, return_dict=True, return_assistant_tokens_mask=True
    )
    assert sum(expected["assistant_masks"]) > 6
    ids, mask = tokenize_dialogue(DIALOGUE, marked)
    assert (ids, [int(m) for m in mask]) == (expected["input_ids"], expected["assistant_masks"])
    # A template without marks gives the same by comparing prompts.
    assert tokenize_dialogue(DIALOGUE, with_template(tokenizer, PLAIN)) == (ids, mask)


def test_template_that_changes_earlier_turns_is_refused(tokenizer):
    with pytest.raises(ValueError, match="renders a turn differently"):
        tokenize_dialogue(DIALOGUE, with_template(tokenizer, CHANGING))
    # A single turn stays as it is.
    tokenize_dialogue(DIALOGUE[:3], with_template(tokenizer, CHANGING))


def test_the_default_of_several_templates_is_used(tokenizer):
    several = with_template(tokenizer, {"default": PLAIN, "tool_use": CHANGING})
    plain = with_template(tokenizer, PLAIN)
    assert tokenize_dialogue(DIALOGUE, several) == tokenize_dialogue(DIALOGUE, plain)
    with pytest.raises(ValueError, match=r"encoding\.template chat: .*no default"):
        prepare_tokenizer(
            with_template(tokenizer, {"rag": PLAIN, "tool_use": PLAIN}), Encoding(template="chat")
        )


def test_texts_do_not_depend_on_the_day(tokenizer, monkeypatch):
    class Later(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2031, 1, 2)

    monkeypatch.setattr(chat_template_utils, "datetime", Later)
    dated = with_template(tokenizer, "{{ strftime_now('%d %b %Y') }}" + PLAIN)
    assert prompt_text({"messages": DIALOGUE}, dated).startswith("26 Jul 2024<|system|>")
    unclear = with_template(tokenizer, "{% set f = '%Y' %}{{ strftime_now(f) }}" + PLAIN)
    with pytest.raises(ValueError, match="today's date"):
        prepare_tokenizer(unclear, Encoding(template="chat"))


def test_caches_of_dialogues_that_differ_in_where_they_end(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    plain, chat = with_template(tokenizer, PLAIN), Encoding(template="chat")
    once = {"prompt": "", "response": "", "messages": DIALOGUE[1:3]}
    twice = once | {"messages": DIALOGUE[1:3] * 2}
    lists = ([once, twice], [twice, once], [once, once, once])
    names = {tokenization._cache_file(records, plain, chat, True) for records in lists}
    assert len(names) == 3


@pytest.mark.parametrize("template", [PLAIN, MARKED])
def test_rows(tokenizer, template):
    tokenizer = with_template(tokenizer, template)
    record = {"prompt": "what is the coat ?", "response": "red", "id": "0"}
    many = record | {"messages": DIALOGUE}
    rows = encode([record, many], tokenizer, Encoding(template="chat"))
    single = [DIALOGUE[1], {"role": "assistant", "content": "red"}]
    for row, turns in zip(rows, (single, DIALOGUE), strict=True):
        text = tokenizer.apply_chat_template(turns, return_dict=True)
        assert row["input_ids"] == text["input_ids"]
        prompt = tokenizer.apply_chat_template(
            turns[:-1], add_generation_prompt=True, return_dict=True
        )
        assert row["prompt_ids"] == prompt["input_ids"]
        supervised = [i for i, label in enumerate(row["labels"]) if label != -100]
        assert row["num_supervised"] == len(supervised)
        # The last turn is supervised from the end of its prompt, with the token that ends it.
        assert supervised[-1] == row["length"] - 1
        assert set(range(len(prompt["input_ids"]), row["length"])) <= set(supervised)
    first = [label for label in rows[0]["labels"] if label != -100]
    assert tokenizer.decode(first) == tokenizer.decode(tokenizer("red<|end|>")["input_ids"])


def test_what_is_too_long_is_refused_or_cut_at_the_end(tokenizer):
    tokenizer = with_template(tokenizer, PLAIN)
    record = {"prompt": "", "response": "", "id": "file, record 3", "messages": DIALOGUE}
    with pytest.raises(ValueError, match="file, record 3: the response loses"):
        encode([record], tokenizer, Encoding(template="chat", max_length=16))
    cut = Encoding(template="chat", max_length=16, allow_truncated_responses=True)
    assert encode([record], tokenizer, cut)[0]["length"] == 16


@pytest.mark.parametrize(
    "settings",
    [{"eval_template": "{instruction}"}, {"tokenize": "joint"}, {"max_prompt_length": 3}],
)
def test_settings_that_a_chat_template_has_no_use_for(settings):
    with pytest.raises(ValueError, match=r"chat template|encoding\.template chat"):
        Encoding(template="chat", **settings)


def test_tokenizer_without_a_chat_template():
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    with pytest.raises(ValueError, match="has no chat template"):
        prepare_tokenizer(tokenizer, Encoding(template="chat"))


def instructions(tmp_path, tokenizer, rows, **settings):
    folder = tmp_path / "tokenizer"
    tokenizer.save_pretrained(folder)
    (tmp_path / "a.json").write_text(json.dumps(rows))
    return Instructions(str(folder), str(tmp_path / "a.json"), **settings)


def test_dialogues_of_a_file(tmp_path, tokenizer):
    rows = [{"messages": DIALOGUE[: 3 + 2 * (i % 2)], "n": i} for i in range(20)]
    chat = {"columns": Columns(messages="messages"), "encoding": Encoding(template="chat")}
    data = instructions(tmp_path, with_template(tokenizer, PLAIN), rows, **chat)
    data.setup("fit")
    data.setup("test")
    batch = next(iter(data.test_dataloader()))
    for record in batch["records"]:
        assert record["prompt"].endswith("<|end|><|assistant|> ")
        assert record["reference"] in {"the coat is red", "the food is bread"}


def test_dialogues_are_the_same_if_all_their_turns_are(tmp_path, tokenizer):
    other = [{"role": "user", "content": "what is the food ?"}, *DIALOGUE[2:]]
    rows = [{"messages": turns} for turns in (DIALOGUE[1:], other)]
    chat = {"columns": Columns(messages="messages"), "encoding": Encoding(template="chat")}
    data = instructions(tmp_path, with_template(tokenizer, PLAIN), rows, **chat)
    (first,), (second,) = data.train_records(), data.test_records()  # one is held out
    assert not find_leaks([first], [second])
    assert find_leaks([first], [first])


def test_the_protocol_names_the_chat_template(tmp_path, tokenizer):
    found = []
    for name, template in (("a", PLAIN), ("b", MARKED), ("c", PLAIN)):
        rows = [{"instruction": f"say {i}", "output": "red"} for i in range(20)]
        folder, chat = tmp_path / name, {"encoding": Encoding(template="chat")}
        data = instructions(folder, with_template(tokenizer, template), rows, **chat)
        data.setup("test")
        found.append(data.describe_protocol()["chat_template"])
    assert found[0] == found[2] != found[1]


@pytest.mark.parametrize("kind", ["json", "saved"])
def test_dialogues_of_sharegpt(tmp_path, tokenizer, kind):
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    turns = [{"from": names[turn["role"]], "value": turn["content"]} for turn in DIALOGUE]
    # Tables give every turn the keys of all: other rows have roles.
    rows = [{"conversations": turns}, {"conversations": DIALOGUE}] * 5
    columns = Columns(messages="conversations")
    plain = with_template(tokenizer, PLAIN)
    data = instructions(
        tmp_path, plain, rows, columns=columns, encoding=Encoding(template="chat"), test="none.json"
    )
    if kind == "saved":
        datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
        data.train_sources = [Source(str(tmp_path / "saved"))]
    assert all(record["messages"] == DIALOGUE for record in data.train_records())


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("hello", "messages: expected a list"),
        (DIALOGUE[:2], "the assistant's turn as the last"),
        ([{"role": "bot", "content": "a"}], "message 0: role is 'bot'"),
        ([{"from": "bing", "value": "a"}], "message 0: from is 'bing'"),
        ([{"from": "human", "value": None}], "message 0: value is None"),
        ([{"role": "user", "content": ["a"]}], r"message 0: content is \['a'\]"),
        ([{"role": "user", "content": " "}, DIALOGUE[2]], "message 0: content is empty"),
    ],
)
def test_invalid_dialogues_are_named(tmp_path, tokenizer, messages, message):
    chat = {"columns": Columns(messages="messages"), "encoding": Encoding(template="chat")}
    data = instructions(tmp_path, with_template(tokenizer, PLAIN), [{"messages": messages}], **chat)
    with pytest.raises(ValueError, match=f"record 0.*{message}"):
        data.train_records()


def test_dialogues_need_the_chat_template(tmp_path, tokenizer):
    with pytest.raises(ValueError, match=r"data\.columns\.messages"):
        instructions(tmp_path, tokenizer, [], columns=Columns(messages="messages"))


@pytest.mark.parametrize("template", [PLAIN, MARKED, CHANGING])
def test_answers_end_with_the_turn(tmp_path, tokenizer, template):
    rows = [{"instruction": f"say {i}", "output": "red"} for i in range(20)]
    tokenizer = with_template(tokenizer, template)
    data = instructions(tmp_path, tokenizer, rows, encoding=Encoding(template="chat"))
    assert data.stop_token_ids == ()
    data.setup("test")
    assert tokenizer.convert_ids_to_tokens(data.stop_token_ids) == ["<|end|>"]


def test_what_comes_before_the_answer_does_not_end_it(tokenizer):
    channels = PLAIN.replace(
        "m['content'] +", "('<|system|> ' if loop.last else '') + m['content'] +"
    )
    channels = with_template(tokenizer, channels)
    assert tokenizer.convert_ids_to_tokens(end_of_turn(channels)) == ["<|end|>"]
    # Without a token of its own an answer ends at the end of the sequence alone.
    bare = with_template(tokenizer, PLAIN.replace("+ '<|end|>'", "+ ' . '"))
    assert end_of_turn(bare) == []


@pytest.mark.parametrize("template", ["chat", "{instruction}"])
def test_padding_with_the_end_of_sequence_keeps_its_label(tmp_path, tokenizer, template):
    ended = copy.deepcopy(tokenizer)
    ended.pad_token = ended.eos_token
    ended.chat_template = PLAIN.replace("<|end|>", ended.eos_token)
    rows = [{"instruction": "say " * (1 + i % 5), "output": "red"} for i in range(20)]
    data = instructions(tmp_path, ended, rows, encoding=Encoding(template=template))
    data.setup("fit")
    assert data.tokenizer.pad_token_id == data.tokenizer.eos_token_id
    batch = next(iter(data.train_dataloader()))
    lengths = batch["attention_mask"].sum(1).tolist()
    assert len(set(lengths)) > 1  # some rows are padded
    end = data.tokenizer.eos_token_id
    for ids, labels, length in zip(batch["input_ids"], batch["labels"], lengths, strict=True):
        assert ids[length - 1] == labels[length - 1] == end
        assert (ids[length:] == end).all()
        assert (labels[length:] == -100).all()


def test_a_template_that_refuses_a_dialogue_names_the_record(tokenizer):
    strict = with_template(
        tokenizer,
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
        "{% endif %}" + PLAIN,
    )
    record = {"prompt": "", "response": "", "id": "a.json, record 3", "messages": DIALOGUE}
    expected = r"a\.json, record 3: encoding\.template chat: .*of system, user, .*System role not"
    with pytest.raises(ValueError, match=expected):
        encode([record], strict, Encoding(template="chat"))
