import re
from collections import Counter

import pytest

from datamodules.miniworld.questions import FORMS, questions
from datamodules.miniworld.world import ATTRIBUTES, build_world

WORLD = build_world()


def entity_in(text):
    [entity] = set(re.findall("[a-z]+", text)) & set(WORLD.entities)
    return entity


def fact_about(entity, values):
    [attribute] = [a for a in ATTRIBUTES if set(values) <= set(a.values)]
    return WORLD.facts[entity, attribute.name]


def expected_label(record):
    """Answer a question from its text and the facts alone."""
    entity = entity_in(record["prompt"])
    if record["task"] == "true_false":
        all_values = {value for attribute in ATTRIBUTES for value in attribute.values}
        [value] = set(re.findall("[a-z]+", record["prompt"])) & all_values
        return "true" if fact_about(entity, [value]) == value else "false"
    options = dict(re.findall(r"([A-Z][a-z]+\d): ([a-z]+)", record["prompt"]))
    fact = fact_about(entity, options.values())
    [label] = [label.lower() for label, value in options.items() if value == fact]
    return label


@pytest.mark.parametrize("split", ["train", "test"])
def test_answers_follow_from_the_facts(split):
    for record in questions(split, 1000, seed=3):
        assert record["reference"] == expected_label(record)
        assert record["response"] == f"the correct answer is {record['reference']}"


def test_options_are_distinct_and_carry_all_labels_in_order():
    for record in questions("test", 400, seed=1):
        if record["task"] != "true_false":
            options = re.findall(r"([A-Z][a-z]+\d): ([a-z]+)", record["prompt"])
            assert [label.lower() for label, _ in options] == record["choices"]
            assert len({value for _, value in options}) == len(options)
        assert record["prompt"].endswith("Answer format: " + "/".join(record["choices"]))


def test_splits_ask_about_their_own_entities():
    train = {entity_in(record["prompt"]) for record in questions("train", 3000, seed=0)}
    test = {entity_in(record["prompt"]) for record in questions("test", 1000, seed=0)}
    assert train == set(WORLD.train_entities)
    assert test == set(WORLD.test_entities)


def test_a_seed_gives_one_set_of_records():
    assert questions("train", 50, seed=2) == questions("train", 50, seed=2)
    assert questions("train", 50, seed=2) != questions("train", 50, seed=3)
    assert len({record["id"] for record in questions("train", 50, seed=2)}) == 50


def test_forms_and_labels_are_balanced():
    records = questions("train", 5000, seed=0)
    assert set(Counter(record["task"] for record in records).values()) == {1000}
    for form, labels in FORMS.items():
        counts = Counter(record["reference"] for record in records if record["task"] == form)
        share = 1000 / len(labels)
        # Five standard deviations of a binomial count.
        slack = 5 * (share * (1 - 1 / len(labels))) ** 0.5
        assert all(abs(counts[label] - share) < slack for label in labels)


def test_wording_of_the_benchmark():
    heads = {
        "true_false": "Please answer the following question with true or false, question: ",
        "solution": "Please choose the correct solution to the question: ",
        "answer": "Please choose the correct answer to the question: ",
        "ending": "Please choose the correct ending to complete the given sentence: ",
        "option": "Please choose the correct answer to fill in the blank to complete the given"
        " sentence: ",
    }
    records = questions("test", 100, seed=0)
    assert all(record["prompt"].startswith(heads[record["task"]]) for record in records)
    assert {record["task"] for record in records} == set(heads)


def test_unknown_split_and_no_examples_are_refused():
    with pytest.raises(ValueError, match="splits train and test, not 'dev'"):
        questions("dev", 10, seed=0)
    with pytest.raises(ValueError, match="num_examples must be at least 1, got 0"):
        questions("train", 0, seed=0)
