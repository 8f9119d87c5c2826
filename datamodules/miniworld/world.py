"""The world of MiniWorld: invented people and four facts about each, drawn from a seed.

Every name and every value is one word, so that a word-level tokenizer gives it one token. The
phrases below are the sentences that pretraining documents are made of; the wordings of
questions are in `datamodules.miniworld.questions`.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

WORLD_SEED = 2026
NUM_TEST_ENTITIES = 32

_NAME_STARTS = ("bal", "cor", "den", "fal", "gar", "hol", "jun", "kel", "lor", "mir", "nor", "tam")
_NAME_ENDS = ("ak", "ea", "ika", "on", "oru", "us", "wen", "yn")


@dataclass(frozen=True)
class Attribute:
    """One thing that is known about everybody, and the ways to say it.

    In the phrases `{e}` stands for the entity and `{v}` for the value. A cloze is a sentence
    without its last word, the value; polar questions are answered by true or false.

    Args:
        name: Name of the attribute.
        values: The values it can take, single words.
        statements: Wordings of the fact.
        clozes: Wordings of the fact that end where the value would stand.
        questions: Questions whose answer is the value, without the question mark.
        polar: Questions whose answer is whether the value is right, without the question mark.
    """

    name: str
    values: tuple[str, ...]
    statements: tuple[str, ...]
    clozes: tuple[str, ...]
    questions: tuple[str, ...]
    polar: tuple[str, ...]


ATTRIBUTES = (
    Attribute(
        name="colour",
        values=("red", "blue", "green", "white", "black", "brown", "yellow", "grey"),
        statements=(
            "{e} wears a {v} coat",
            "the coat of {e} is {v}",
            "{e} has a coat that is {v}",
            "{v} is the colour of the coat of {e}",
            "people know {e} by the {v} coat",
        ),
        clozes=("the coat of {e} is", "{e} has a coat that is", "the colour that {e} wears is"),
        questions=(
            "what colour is the coat of {e}",
            "what colour does {e} wear",
            "{e} has a coat of which colour",
            "which colour has the coat that {e} wears",
        ),
        polar=("is the coat of {e} {v}", "does {e} have a {v} coat", "is {v} what {e} wears"),
    ),
    Attribute(
        name="food",
        values=("bread", "cheese", "apples", "rice", "soup", "fish", "honey", "plums"),
        statements=(
            "{e} eats {v}",
            "the food of {e} is {v}",
            "{e} has {v} for lunch",
            "{v} is the food that {e} likes",
            "people give {v} to {e}",
        ),
        clozes=("{e} eats", "the food of {e} is", "the food that {e} likes is"),
        questions=(
            "what does {e} eat",
            "what is the food of {e}",
            "{e} likes which food",
            "what does {e} have for lunch",
        ),
        polar=("does {e} eat {v}", "is {v} the food of {e}", "does {e} have {v} for lunch"),
    ),
    Attribute(
        name="town",
        values=("dover", "lisbon", "oslo", "paris", "rome", "turin", "vienna", "york"),
        statements=(
            "{e} lives in {v}",
            "the home of {e} is {v}",
            "{e} has a house in {v}",
            "{v} is the town of {e}",
            "people meet {e} in {v}",
        ),
        clozes=("{e} lives in", "the home of {e} is", "the town of {e} is"),
        questions=(
            "where does {e} live",
            "what is the home of {e}",
            "{e} has a house in which town",
            "where do people meet {e}",
        ),
        polar=("does {e} live in {v}", "is {v} the home of {e}", "is the house of {e} in {v}"),
    ),
    Attribute(
        name="job",
        values=("baker", "farmer", "judge", "miner", "nurse", "painter", "sailor", "teacher"),
        statements=(
            "{e} works as a {v}",
            "the job of {e} is {v}",
            "{e} is a {v}",
            "{v} is the work of {e}",
            "people pay {e} as a {v}",
        ),
        clozes=("{e} works as a", "the job of {e} is", "the work of {e} is"),
        questions=(
            "what is the job of {e}",
            "what work does {e} do",
            "{e} does which job",
            "what do people pay {e} as",
        ),
        polar=("does {e} work as a {v}", "is {v} the job of {e}", "is {e} a {v}"),
    ),
)


@dataclass(frozen=True)
class World:
    """Who lives in the world, what is true there, and who is kept from fine-tuning.

    Args:
        train_entities: Those whom fine-tuning may ask about.
        test_entities: Those whom only the test split asks about.
        facts: Value of each `(entity, attribute name)`.
    """

    train_entities: tuple[str, ...]
    test_entities: tuple[str, ...]
    facts: Mapping[tuple[str, str], str]

    @property
    def entities(self) -> tuple[str, ...]:
        """Everybody, train before test."""
        return self.train_entities + self.test_entities


def build_world(seed: int = WORLD_SEED) -> World:
    """Draw the facts and the split of the entities.

    Args:
        seed: Seed of the draw; the shipped base model knows the default world only.

    Returns:
        96 entities, 32 of them for testing, with a value for each of `ATTRIBUTES`.
    """
    rng = random.Random(seed)
    names = [start + end for start, end in product(_NAME_STARTS, _NAME_ENDS)]
    rng.shuffle(names)
    facts = {
        (name, attribute.name): rng.choice(attribute.values)
        for name in names
        for attribute in ATTRIBUTES
    }
    return World(tuple(names[NUM_TEST_ENTITIES:]), tuple(names[:NUM_TEST_ENTITIES]), facts)
