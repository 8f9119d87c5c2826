"""The published protocols to the letter: templates by bytes, tokens by the rule they state."""

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from datamodules.encoding import Encoding
from datamodules.tokenization import encode
from tests.config.composition import compose
from tests.conftest import ROOT
from tests.soak import more

PROTOCOLS = ROOT / "configs" / "base" / "protocols"
HEAD = b"Below is an instruction that describes a task. Write a response that appropriately "
HEAD += b"completes the request."
# Every byte, as the scripts of LLM-Adapters and HiRA have it.
LLM_ADAPTERS_TRAIN = (
    HEAD + b"  \n\n"
    b"                ### Instruction:\n"
    b"                Q?\n"
    b"                \n"
    b"                ### Response:\n"
    b"                the correct answer is true"
)
LLM_ADAPTERS_EVAL = (
    HEAD + b" \n\n"
    b"                ### Instruction:\n"
    b"                Q?\n"
    b"\n"
    b"                ### Response:\n"
    b"                "
)
HIRA = HEAD + b"  \n\n### Instruction:\nQ?\n\n### Response:\n"
CONVAI2 = b"CONTEXT: Q? TARGET: "
ANSWER = b"the correct answer is true"
TEXTS = {
    "commonsense170k/llm_adapters": (LLM_ADAPTERS_TRAIN, LLM_ADAPTERS_EVAL),
    "commonsense170k/tera_paper": (LLM_ADAPTERS_TRAIN, LLM_ADAPTERS_EVAL),
    "commonsense170k/hira": (HIRA + ANSWER, HIRA),
    "commonsense170k/lm_eval": (b"Q?" + ANSWER, b"Q?"),
    "math10k/llm_adapters": (LLM_ADAPTERS_TRAIN, LLM_ADAPTERS_EVAL),
    "math10k/tera_paper": (LLM_ADAPTERS_TRAIN, LLM_ADAPTERS_EVAL),
    "math10k/hira": (HIRA + ANSWER, HIRA),
    "convai2/hira": (CONVAI2 + ANSWER, CONVAI2),
    "convai2/tera_paper": (CONVAI2 + ANSWER, CONVAI2),
}


def settings(name, **changes):
    config = compose(PROTOCOLS / f"{name}.yaml")
    return Encoding(**config["data"]["init_args"]["encoding"] | changes)


def record(prompt="Q?", response="the correct answer is true"):
    return {
        "prompt": prompt,
        "response": response,
        "task": "t",
        "reference": "r",
        "choices": None,
        "id": "file:0",
    }


@pytest.fixture(scope="module", params=["llama2", "llama3"])
def llama(request, shared):
    folder = shared / "models" / f"{request.param}_tokenizer" / "hf"
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("name", TEXTS)
def test_texts_are_the_bytes_of_the_scripts(name):
    encoding, (train, generation) = settings(name), TEXTS[name]
    assert (encoding.train_prompt("Q?") + ANSWER.decode()).encode() == train
    assert encoding.eval_prompt("Q?").encode() == generation


def test_every_protocol_is_checked():
    assert {f"{p.parent.name}/{p.stem}" for p in PROTOCOLS.rglob("*.yaml")} == TEXTS.keys()


@pytest.mark.parametrize("name", TEXTS)
def test_text_survives_the_real_tokenizers(name, llama):
    encoding, (train, generation) = settings(name), TEXTS[name]
    row = encode([record()], llama, encoding)[0]
    supervised = [token for token in row["labels"] if token != -100]
    # A separately tokenized response is a text of its own, to Llama-2 with a space before it.
    expected = train if encoding.loss_on == "all" and encoding.tokenize == "joint" else ANSWER
    assert llama.decode(supervised, skip_special_tokens=True).lstrip().encode() == expected
    assert llama.decode(row["prompt_ids"], skip_special_tokens=True).encode() == generation


def test_llm_adapters_by_its_rule(llama):
    """One text with BOS, cut at 256 on the right, EOS if there is room, all of it supervised."""
    for words in (5, 400):
        item = record("word " * words + "?")
        row = encode([item], llama, settings("commonsense170k/llm_adapters"))[0]
        text = LLM_ADAPTERS_TRAIN.decode().replace("Q?", item["prompt"])
        expected = llama(text, truncation=True, max_length=256, padding=False)["input_ids"]
        if len(expected) < 256 and expected[-1] != llama.eos_token_id:
            expected = [*expected, llama.eos_token_id]
        assert row["input_ids"] == row["labels"] == expected
        evaluated = LLM_ADAPTERS_EVAL.decode().replace("Q?", item["prompt"])
        assert row["prompt_ids"] == llama(evaluated)["input_ids"]


def test_llm_adapters_can_mask_the_prompt(llama):
    encoding = settings("commonsense170k/llm_adapters", loss_on="response")
    row = encode([record()], llama, encoding)[0]
    prompt = LLM_ADAPTERS_TRAIN.decode().removesuffix(ANSWER.decode())
    masked = len(llama(prompt)["input_ids"])
    assert row["labels"] == [-100] * masked + row["input_ids"][masked:]


def test_hira_by_its_rule(llama):
    """Context without BOS cut on the right at 256, separate target cut at 16, no supervised EOS."""
    for words, response in ((5, "the correct answer is true"), (400, "a b c d " * 10)):
        item = record("word " * words + "?", response)
        row = encode([item], llama, settings("commonsense170k/hira"))[0]
        text = HIRA.decode().replace("Q?", item["prompt"])
        context = llama(text, add_special_tokens=False)["input_ids"][:256]
        target = llama(response, add_special_tokens=False)["input_ids"][:16]
        assert row["input_ids"] == context + target
        assert row["labels"] == [-100] * len(context) + target
        expected = llama(text, truncation=True, max_length=256)["input_ids"]
        assert row["prompt_ids"] == expected
        assert expected[0] == llama.bos_token_id


def test_convai2_by_its_rule(llama):
    row = encode([record()], llama, settings("convai2/hira"))[0]
    text = (CONVAI2 + ANSWER).decode()
    assert row["input_ids"] == [*llama(text)["input_ids"], llama.eos_token_id]
    assert row["labels"] == row["input_ids"]
    assert row["prompt_ids"] == llama(CONVAI2.decode())["input_ids"]


@pytest.mark.parametrize("name", ["convai2/hira", "convai2/tera_paper"])
def test_convai2_cuts_at_512_and_counts(llama, name):
    """The training split is 17 times the test split, whose longest turn has 506 tokens."""
    row = encode([record("word " * 600 + "?")], llama, settings(name))[0]
    text = llama(CONVAI2.decode().replace("Q?", "word " * 600 + "?") + ANSWER.decode())["input_ids"]
    assert row["input_ids"] == text[:512]
    assert row["num_prompt_cut"] + row["num_response_cut"] == len(text) + 1 - 512
    assert row["num_response_cut"] >= 5


# Any text but half surrogates and what a tokenizer reads as its own tokens.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<>|"), max_size=80)


@pytest.mark.parametrize("name", ["commonsense170k/tera_paper", "commonsense170k/hira"])
@hypothesis_settings(max_examples=more(30))
@given(prompt=TEXT, response=TEXT.filter(str.strip))
@pytest.mark.slow
def test_random_text_survives_to_tokens_and_back(name, llama, prompt, response):
    encoding = settings(name, max_length=2000, max_prompt_length=None, max_response_length=None)
    row = encode([record(prompt, response)], llama, encoding)[0]
    assert row["num_prompt_cut"] == row["num_response_cut"] == 0
    supervised = [token for token in row["labels"] if token != -100]
    whole = encoding.train_prompt(prompt) + response
    expected = response if encoding.tokenize == "separate" else whole
    assert llama.decode(supervised, skip_special_tokens=True) == expected
    answered = llama.decode(row["prompt_ids"], skip_special_tokens=True)
    assert answered == encoding.eval_prompt(prompt)


@pytest.mark.parametrize(
    ("folder", "vectors"), [("llama2_tokenizer", "llama-spm"), ("llama3_tokenizer", "llama-bpe")]
)
def test_real_tokenizers_pass_their_vectors(shared, folder, vectors):
    """The 47 texts that llama.cpp tests each tokenizer with."""
    tokenizer = AutoTokenizer.from_pretrained(shared / "models" / folder / "hf")
    path = shared / "models" / "llama_tokenizer_test_vectors" / vectors
    texts = path.with_suffix(".inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    lines = path.with_suffix(".out").read_text().split("\n")
    assert len(texts) == len(lines) == 47
    for text, line in zip(texts, lines, strict=True):
        expected = [int(number) for number in line.split()]
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == expected
