"""MiniWorld's questions, in the forms of the commonsense sub-tasks.

Five forms cover the label schemes of the eight sub-tasks: true/false (BoolQ), solution1-2 (PIQA),
answer1-4 (ARC, OpenBookQA, SIQA), ending1-4 (HellaSwag) and option1-2 (WinoGrande). Instructions
are worded as in the LLM-Adapters files; the template around them is the datamodule's.
"""

import random
from collections.abc import Sequence
from itertools import product
from typing import Any, Literal

from datamodules.errors import UserError
from datamodules.miniworld.world import ATTRIBUTES, Attribute, World, build_world

TRUE_FALSE = ("true", "false")
SOLUTIONS = ("solution1", "solution2")
ANSWERS = ("answer1", "answer2", "answer3", "answer4")
ENDINGS = ("ending1", "ending2", "ending3", "ending4")
OPTIONS = ("option1", "option2")

FORMS: dict[str, tuple[str, ...]] = {
    "true_false": TRUE_FALSE,
    "solution": SOLUTIONS,
    "answer": ANSWERS,
    "ending": ENDINGS,
    "option": OPTIONS,
}


def _list_options(labels: Sequence[str], values: Sequence[str], separator: str) -> str:
    """Write `Answer1: red Answer2: blue`, the labels capitalized as in LLM-Adapters."""
    pairs = zip(labels, values, strict=True)
    return separator.join(f"{label.capitalize()}: {value}" for label, value in pairs)


def _instruction(
    form: str, attribute: Attribute, entity: str, values: Sequence[str], rng: random.Random
) -> str:
    """Word one question; `values` are what its labels stand for, or the value that is judged."""
    labels = FORMS[form]
    answer_format = f"Answer format: {'/'.join(labels)}"
    if form == "true_false":
        polar = rng.choice(attribute.polar).format(e=entity, v=values[0])
        head = "Please answer the following question with true or false, question:"
        return f"{head} {polar}?\n\n{answer_format}"
    question = rng.choice(attribute.questions).format(e=entity)
    cloze = rng.choice(attribute.clozes).format(e=entity)
    if form == "solution":
        head = f"Please choose the correct solution to the question: {question}?"
        return f"{head}\n\n{_list_options(labels, values, chr(10) * 2)}\n\n{answer_format}"
    if form == "answer":
        head = f"Please choose the correct answer to the question: {question}?"
        return f"{head}\n\n{_list_options(labels, values, ' ')}\n\n{answer_format}"
    if form == "ending":
        head = "Please choose the correct ending to complete the given sentence:"
        return f"{head} {cloze}\n\n{_list_options(labels, values, ' ')}\n\n{answer_format}"
    head = "Please choose the correct answer to fill in the blank to complete the given sentence:"
    return f"{head} {cloze} _.\n\n{_list_options(labels, values, ' ')} {answer_format}"


def draw_values(
    attribute: Attribute, fact: str, position: int, num_values: int, rng: random.Random
) -> list[str]:
    """Draw distinct values of one attribute with the true one at a given position.

    Args:
        attribute: Attribute that is asked about.
        fact: The true value.
        position: Where the true value goes.
        num_values: How many values there are in all.
        rng: Source of the wrong ones.

    Returns:
        `num_values` values, `fact` at index `position`.
    """
    values = rng.sample([value for value in attribute.values if value != fact], num_values - 1)
    values.insert(position, fact)
    return values


def _record(
    form: str, world: World, entity: str, attribute: Attribute, rng: random.Random
) -> dict[str, Any]:
    """Draw one record, without its id."""
    labels = FORMS[form]
    fact = world.facts[entity, attribute.name]
    position = rng.randrange(len(labels))
    if form == "true_false":
        values = [fact] if position == 0 else draw_values(attribute, fact, 1, 2, rng)[:1]
    else:
        values = draw_values(attribute, fact, position, len(labels), rng)
    return {
        "prompt": _instruction(form, attribute, entity, values, rng),
        "response": f"the correct answer is {labels[position]}",
        "task": form,
        "reference": labels[position],
        "choices": list(labels),
    }


def questions(
    split: Literal["train", "test"], num_examples: int, seed: int
) -> list[dict[str, Any]]:
    """Ask about the entities of one split, all five forms equally often.

    Args:
        split: `train` or `test`; no entity is in both.
        num_examples: How many records to draw.
        seed: Seed of the draw.

    Returns:
        Records whose `prompt` is the instruction without a template, in shuffled order.

    Raises:
        UserError: If there is no such split or fewer than one example is asked for.
    """
    if split not in ("train", "test"):
        raise UserError(f"MiniWorld has the splits train and test, not {split!r}")
    if num_examples < 1:
        raise UserError(f"num_examples must be at least 1, got {num_examples}")
    world = build_world()
    entities = world.train_entities if split == "train" else world.test_entities
    rng = random.Random(f"questions-{split}-{seed}")
    pairs = list(product(entities, ATTRIBUTES))
    records: list[dict[str, Any]] = []
    while len(records) < num_examples:
        # Every form goes through all facts before any fact comes back.
        orders = [rng.sample(pairs, len(pairs)) for _ in FORMS]
        for cells in zip(*orders, strict=True):
            for form, (entity, attribute) in zip(FORMS, cells, strict=True):
                records.append(_record(form, world, entity, attribute, rng))
    records = records[:num_examples]
    rng.shuffle(records)
    return [
        record | {"id": f"miniworld-{split}-{seed}-{index}"} for index, record in enumerate(records)
    ]
