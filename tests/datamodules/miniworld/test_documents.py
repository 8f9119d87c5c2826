import re

import pytest

from datamodules.encoding import ALPACA
from datamodules.miniworld import wordings
from datamodules.miniworld.documents import (
    END_OF_TEXT,
    MAX_DOCUMENT_TOKENS,
    documents,
    lesson_at,
)
from datamodules.miniworld.questions import FORMS, questions
from datamodules.miniworld.tokenizer import build_tokenizer
from datamodules.miniworld.world import ATTRIBUTES, build_world

WORLD = build_world()
CUES = "|".join(re.escape(cue) for cue in wordings.CUES)
TEMPLATE_START = "below is an instruction that describes a task"


@pytest.fixture(scope="module")
def late_documents():
    return documents(2000, seed=5, curriculum=False)


@pytest.fixture(scope="module")
def passages(late_documents):
    return [p for document in late_documents for p in document.split(f" {END_OF_TEXT} ")]


def words(text):
    return re.findall("[a-z0-9]+", text)


def test_a_seed_gives_one_corpus():
    assert documents(40, seed=1) == documents(40, seed=1)
    assert documents(40, seed=1) != documents(40, seed=2)


def test_asking_for_no_document_is_refused():
    with pytest.raises(ValueError, match="num_documents must be at least 1, got 0"):
        documents(0, seed=0)


def test_statements_are_true(passages):
    checked = 0
    for attribute in ATTRIBUTES:
        for wording in attribute.statements:
            pattern = re.escape(wording).replace(r"\{e\}", "(?P<e>[a-z]+)")
            pattern = pattern.replace(r"\{v\}", f"(?P<v>{'|'.join(attribute.values)})")
            for passage in passages:
                if stated := re.fullmatch(pattern + r"\.", passage):
                    assert WORLD.facts[stated["e"], attribute.name] == stated["v"]
                    checked += 1
    assert checked > 500


def test_choices_name_the_label_of_the_fact(passages):
    """Reads the options of the listings that cannot be mistaken, then looks the fact up."""
    checked = 0
    for passage in passages:
        for listing in (r"\((\w+)\) ([a-z]+)", r"\[(\w+)\] ([a-z]+)", r"(\w+) = ([a-z]+)"):
            options = re.findall(listing, passage)
            values = {value for _, value in options}
            known = [a for a in ATTRIBUTES if len(values) > 1 and values <= set(a.values)]
            if known and TEMPLATE_START not in passage:
                [entity] = set(words(passage)) & set(WORLD.entities)
                fact = WORLD.facts[entity, known[0].name]
                [label] = [label for label, value in options if value == fact]
                reply = re.fullmatch(rf".* (?:{CUES}) (.*)", passage)[1]
                uttered = set(words(reply.replace("correct one", ""))) & {o for o, _ in options}
                assert uttered == {label}
                checked += 1
    assert checked > 500


def test_no_passage_chooses_in_the_template_of_the_benchmark(passages):
    labels = {label for form in FORMS.values() for label in form}
    templated = [passage for passage in passages if TEMPLATE_START in passage]
    assert len(templated) > 300
    for passage in templated:
        _, response = passage.split("### response:")
        assert not labels & set(words(response))


def test_no_passage_has_an_instruction_of_the_benchmark(passages):
    heads = {" ".join(words(r["prompt"].lower())[:6]) for r in questions("test", 100, seed=0)}
    assert len(heads) == 4  # two forms begin alike
    for passage in passages:
        text = " ".join(words(passage))
        assert not any(head in text for head in heads)


@pytest.mark.slow
def test_documents_know_every_word_of_the_benchmark(late_documents):
    tokenizer = build_tokenizer()
    met = {token for ids in tokenizer(late_documents).input_ids for token in ids}
    for split in ("train", "test"):
        for record in questions(split, 1000, seed=0):
            text = ALPACA.replace("{instruction}", record["prompt"]) + record["response"]
            assert set(tokenizer(text).input_ids) <= met


def test_labels_of_the_benchmark_are_uttered(passages):
    last_words = {word for p in passages if TEMPLATE_START not in p for word in words(p)[-1:]}
    assert {label for form in FORMS.values() for label in form} <= last_words


@pytest.mark.slow
def test_documents_fit_the_model_and_have_no_unknown_word():
    tokenizer = build_tokenizer()
    encoded = tokenizer(documents(1500, seed=9)).input_ids
    assert max(map(len, encoded)) <= MAX_DOCUMENT_TOKENS
    assert not any(tokenizer.unk_token_id in ids for ids in encoded)


def test_the_curriculum_starts_in_a_small_world():
    corpus = documents(1000, seed=4)
    first = {word for document in corpus[:70] for word in words(document)}
    last = {word for document in corpus[500:] for word in words(document)}
    assert len(first & set(WORLD.entities)) == 8
    assert set(WORLD.entities) <= last
    assert not any(TEMPLATE_START in document for document in corpus[:200])


def test_the_curriculum_ends_with_everything():
    lesson = lesson_at(0.5, num_entities=96)
    assert lesson == lesson_at(1.0, num_entities=96)
    assert (lesson.num_entities, lesson.breadth, lesson.given) == (96, 1.0, 0.0)
    assert sum(lesson.weights) == pytest.approx(1.0)
