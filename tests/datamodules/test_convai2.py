"""Dialogues of ParlAI's format become the prompts that HiRA gives, turn by turn."""

import json

import pytest

from datamodules import ConvAI2, Encoding

DIALOGUES = """1 your persona: i like: cake.
2 your persona: i ski.
3 hi !\thello .
4 what do you do ?\ti ski a lot .
1 your persona: i am old.
2 hello\thi
"""


def make(folder, tokenizer, text=DIALOGUES, **settings):
    (folder / "valid_self_original_no_cands.txt").write_bytes(
        text if isinstance(text, bytes) else text.encode()
    )
    return ConvAI2(str(tokenizer), str(folder), **settings)


def test_one_record_a_turn_with_the_whole_history(tmp_path, tiny_backbone):
    first, second, third = make(tmp_path, tiny_backbone).test_records()
    assert second["prompt"] == (
        "Given the dialog history between Q and R is:\n"
        "Q: hi !\nR: hello .\nQ: what do you do ?\n\n"
        "Given the personality of the R as: \ni like: cake.\ni ski.\n\n"
        "Please response to Q according to both the dialog history and the R's personality.\n"
        "Now, the R would say:"
    )
    assert second["response"] == "i ski a lot ."
    assert first["reference"] == ["hello ."]
    assert "ski" not in third["prompt"]
    assert third["id"] == "valid_self_original_no_cands.txt:6"


def test_equal_contexts_are_one_record_with_several_references(tmp_path, tiny_backbone):
    turn = "1 your persona: a\n2 hi\t{}\n"
    data = make(tmp_path, tiny_backbone, turn.format("one") + turn.format("two"))
    (record,) = data.test_records()
    assert record["reference"] == ["one", "two"]


def test_json_holds_the_same(tmp_path, tiny_backbone):
    text = make(tmp_path, tiny_backbone)
    items = [{"instruction": r["prompt"], "output": r["response"]} for r in text.test_records()]
    (tmp_path / "t.json").write_text(json.dumps(items))
    other = ConvAI2(str(tiny_backbone), str(tmp_path), train_file="t.json")
    assert [r["prompt"] for r in other.train_records()] == [
        r["prompt"] for r in text.test_records()
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    {
        "no persona": ("1 hi\thello\n", r"line 1: a turn before any 'your persona"),
        "no persona in the second": (
            "1 your persona: a\n2 hi\thello\n1 hi\thello\n",
            "line 3: a turn before any",
        ),
        "no number": ("your persona: a\n", "line 1: expected a number"),
        "an empty line": ("1 your persona: a\n\n2 hi\thello\n", "line 2: expected a number"),
        "a line lost": ("1 your persona: a\n3 hi\thello\n", "line 2: the number 3 follows 1"),
        "a line twice": ("1 your persona: a\n2 b\tc\n2 b\tc\n", r"line 3: .* expected 3, or 1"),
        "no first line": ("2 your persona: a\n3 hi\thello\n", "line 1: the number 2 follows 0"),
        "digits of another script": ("\u0661 your persona: a\n", "line 1: expected a number"),
        "no reply": ("1 your persona: a\n2 hi\n", "line 2: 0 tabs"),
        "candidates": ("1 your persona: a\n2 hi\thello\t\ta|b|c\n", "line 2: 3 tabs"),
        "empty reply": ("1 your persona: a\n2 hi\t \n", "line 2: an empty utterance"),
        "empty question": ("1 your persona: a\n2 \thello\n", "line 2: an empty utterance"),
        "partner": ("1 partner's persona: a\n", "line 1: a partner's persona"),
        "empty file": ("", "holds no turns"),
        "only personas": ("1 your persona: a\n", "holds no turns"),
        "not UTF-8": (b"1 your persona: \xff\n", "byte 16: not UTF-8"),
    }.values(),
)
def test_broken_dialogues_are_named(tmp_path, tiny_backbone, text, message):
    data = make(tmp_path, tiny_backbone, text)
    with pytest.raises(ValueError, match=message):
        data.test_records()


@pytest.mark.parametrize("change", ["crlf", "bom", "no end"])
def test_what_editors_do_to_a_file_is_accepted(tmp_path, tiny_backbone, change):
    expected = make(tmp_path, tiny_backbone).test_records()
    text = {
        "crlf": DIALOGUES.replace("\n", "\r\n").encode(),
        "bom": b"\xef\xbb\xbf" + DIALOGUES.encode(),
        "no end": DIALOGUES.rstrip("\n").encode(),
    }[change]
    assert make(tmp_path, tiny_backbone, text).test_records() == expected


def test_missing_files_are_named(tmp_path, tiny_backbone):
    data = ConvAI2(str(tiny_backbone), str(tmp_path))
    with pytest.raises(ValueError, match=r"train_self_original_no_cands\.txt"):
        data.train_records()
    with pytest.raises(ValueError, match="cannot read"):
        ConvAI2(str(tiny_backbone), str(tmp_path), train_file="x.json").train_records()


@pytest.mark.slow
def test_real_files_have_their_counts(shared):
    data = ConvAI2(
        str(shared / "models" / "llama2_tokenizer" / "hf"),
        str(shared / "data" / "convai2"),
        train_file="personachat_truecased_subset/train_instruction_format.json",
        encoding=Encoding(max_length=512, pad_token="<unk>"),
    )
    test = data.test_records()
    assert len(test) == 7_801  # no two contexts are equal
    assert len(data.train_records()) == 1_000
    # The derived files were made by another program in the same format.
    heads = {r["prompt"].split("\n")[0] for r in [*test, *data.train_records()]}
    assert heads == {"Given the dialog history between Q and R is:"}
    data.setup("fit")
    assert data.statistics()["train"]["truncated_responses"] == 0
