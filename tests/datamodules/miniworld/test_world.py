import re

import pytest

from datamodules.miniworld.world import ATTRIBUTES, NUM_TEST_ENTITIES, build_world


def test_a_seed_gives_one_world():
    assert build_world(3) == build_world(3)
    assert build_world(3).facts != build_world(4).facts


def test_no_entity_is_in_both_splits():
    world = build_world()
    assert not set(world.train_entities) & set(world.test_entities)
    assert len(world.test_entities) == NUM_TEST_ENTITIES
    assert len(set(world.entities)) == len(world.entities) == 96


def test_every_entity_has_every_fact():
    world = build_world()
    assert set(world.facts) == {(e, a.name) for e in world.entities for a in ATTRIBUTES}
    assert all(world.facts[e, a.name] in a.values for e in world.entities for a in ATTRIBUTES)


def test_names_and_values_are_words_of_their_own():
    values = [value for attribute in ATTRIBUTES for value in attribute.values]
    words = [*values, *build_world().entities]
    assert len(set(words)) == len(words)
    assert all(re.fullmatch("[a-z]+", word) for word in words)


@pytest.mark.parametrize("attribute", ATTRIBUTES, ids=lambda attribute: attribute.name)
def test_wordings_name_the_entity_and_no_value(attribute):
    stated = attribute.statements + attribute.polar
    asked = attribute.clozes + attribute.questions
    assert all(wording.count("{e}") == wording.count("{v}") == 1 for wording in stated)
    assert all(wording.count("{e}") == 1 and "{v}" not in wording for wording in asked)
    assert not set(attribute.values) & set(" ".join(stated + asked).split())
