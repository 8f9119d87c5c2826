"""What MiniWorld's base model is pretrained on: statements of facts, and choices among values.

A document is a sequence of short passages with the end-of-text token between them. There are four
kinds of passage:

    fact        a fact in one of many wordings
    choice      a question with labeled options in one of many wordings, answered by a label
    verdict     a statement or question judged as true or false, yes or no, ...
    reply       an instruction in the questions' template whose reply is something else: the
                fact in words, the question again, the list of the values

Choices and verdicts are never in the questions' template, and no reply in that template is a
label: fine-tuning has to teach that. Every word and sign of the questions does occur, because a
frozen base cannot generate words that it was not trained on.

The order of the documents is a curriculum and must be kept. The first ones are about eight
entities in one wording; then the world grows, then the wordings. Without it a small model needs
many times the steps: it learns neither facts nor choices before it has formed the attention
that looks facts up, and a small world rewards that attention sooner.
"""

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from datamodules.errors import UserError
from datamodules.miniworld import wordings
from datamodules.miniworld.questions import ANSWERS, ENDINGS, OPTIONS, SOLUTIONS, draw_values
from datamodules.miniworld.world import ATTRIBUTES, Attribute, World, build_world

END_OF_TEXT = "</s>"
MAX_DOCUMENT_TOKENS = 126

_FEW_ENTITIES = 8
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Lesson:
    """How hard the documents are at one point of the curriculum.

    Args:
        num_entities: How many entities they speak of.
        breadth: Share of the wordings they draw on, in [0, 1].
        given: Probability that a choice states its fact first.
        weights: Relative frequency of facts, choices, verdicts and replies.
    """

    num_entities: int
    breadth: float
    given: float
    weights: tuple[float, float, float, float]


def _ramp(progress: float, start: float, end: float) -> float:
    return min(1.0, max(0.0, (progress - start) / (end - start)))


def lesson_at(progress: float, num_entities: int) -> Lesson:
    """Place a document in the curriculum.

    Args:
        progress: Share of the documents that came before it, in [0, 1].
        num_entities: Size of the full world.

    Returns:
        Its lesson; from the middle on, all entities in all wordings.
    """
    growth = _ramp(progress, 0.075, 0.3)
    breadth = _ramp(progress, 0.225, 0.5)
    facts = 0.4 - 0.2 * breadth
    replies = 0.0 if breadth < 0.3 else 0.15
    asked = 1 - facts - replies
    return Lesson(
        num_entities=_FEW_ENTITIES + int((num_entities - _FEW_ENTITIES) * growth),
        breadth=breadth,
        given=0.4 * (1 - breadth),
        weights=(facts, 0.55 * asked, 0.45 * asked, replies),
    )


class _Writer:
    """Writes passages about one world.

    Args:
        world: What is true.
        rng: Source of every draw.
    """

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world = world
        self.rng = rng
        self.entities = rng.sample(world.entities, len(world.entities))
        self.lesson = lesson_at(1.0, len(self.entities))

    def passage(self) -> str:
        """Write one passage of the present lesson."""
        kinds = (self.fact, self.choice, self.verdict, self.reply)
        return self.rng.choices(kinds, self.lesson.weights)[0]()

    def fact(self) -> str:
        """State one fact."""
        entity, attribute, fact = self._subject()
        shape = self.rng.randrange(4)
        if shape == 0:
            return f"{self.rng.choice(attribute.questions).format(e=entity)}? {fact}."
        if shape == 1:
            return f"{self.rng.choice(attribute.clozes).format(e=entity)} {fact}."
        return f"{self.rng.choice(attribute.statements).format(e=entity, v=fact)}."

    def choice(self) -> str:
        """Ask with labeled options and answer by a label."""
        rng, breadth = self.rng, self.lesson.breadth
        entity, attribute, fact = self._subject()
        num_options = rng.choice((2, 2, 3, 4, 4))
        labels = list(self._any_of(wordings.LABEL_SCHEMES)[:num_options])
        if rng.random() < 0.3 * breadth:
            rng.shuffle(labels)
        position = rng.randrange(num_options)
        values = draw_values(attribute, fact, position, num_options, rng)
        listing = self._any_of(wordings.LISTINGS)
        options = self._any_of(wordings.SEPARATORS).join(
            listing.format(k=label, v=value) for label, value in zip(labels, values, strict=True)
        )
        if rng.random() < 0.5:
            question = f"{rng.choice(attribute.questions)}?"
        else:
            question = rng.choice(attribute.clozes) + self._any_of(wordings.BLANKS)
        asked = (question.format(e=entity), options)
        given = ""
        if rng.random() < self.lesson.given:
            given = rng.choice(attribute.statements).format(e=entity, v=fact) + "."
        opening = self._any_of(wordings.CHOICE_OPENINGS)
        hint = self._any_of(wordings.CHOICE_HINTS).format(labels="/".join(labels))
        return _join(given, opening, *asked, hint, self._answer(labels[position]))

    def verdict(self) -> str:
        """Judge a statement or a polar question."""
        rng = self.rng
        entity, attribute, fact = self._subject()
        labels = self._any_of(wordings.VERDICTS)
        position = rng.randrange(2)
        value = fact if position == 0 else draw_values(attribute, fact, 1, 2, rng)[0]
        if rng.random() < 0.6:
            claim = f"{rng.choice(attribute.polar)}?"
        else:
            claim = f"{rng.choice(attribute.statements)}."
        hint = self._any_of(wordings.VERDICT_HINTS)
        asked = [claim.format(e=entity, v=value), hint.format(labels="/".join(labels))]
        if rng.random() < 0.3:
            asked.reverse()
        opening = self._any_of(wordings.VERDICT_OPENINGS)
        return _join(opening, *asked, self._answer(labels[position]))

    def reply(self) -> str:
        """Follow an instruction of another kind, in the questions' template."""
        rng = self.rng
        entity, attribute, fact = self._subject()
        labels = rng.choice((ANSWERS, SOLUTIONS, ENDINGS, OPTIONS))
        values = draw_values(attribute, fact, rng.randrange(len(labels)), len(labels), rng)
        fields = {
            "question": rng.choice(attribute.questions).format(e=entity),
            "polar": rng.choice(attribute.polar).format(e=entity, v=rng.choice((fact, values[0]))),
            "cloze": rng.choice(attribute.clozes).format(e=entity),
            "statement": rng.choice(attribute.statements).format(e=entity, v=fact),
            "options": " ".join(f"{k}: {v}" for k, v in zip(labels, values, strict=True)),
            "values": ", ".join(values),
            "fact": fact,
        }
        instruction, response = rng.choice(wordings.INSTRUCTIONS)
        answer_format = "/".join(labels) if "{options}" in instruction else "true/false"
        tail = rng.choice(wordings.TAILS).format(labels=answer_format)
        asked = _join(wordings.HEADER, instruction.format(**fields), tail, "### response:")
        return _join(asked, rng.choice(wordings.LEADS), response.format(**fields))

    def _subject(self) -> tuple[str, Attribute, str]:
        entity = self.entities[self.rng.randrange(self.lesson.num_entities)]
        attribute = self.rng.choice(ATTRIBUTES)
        return entity, attribute, self.world.facts[entity, attribute.name]

    def _any_of(self, items: Sequence[_Item]) -> _Item:
        num_items = max(1, math.ceil(self.lesson.breadth * len(items)))
        return items[self.rng.randrange(num_items)]

    def _answer(self, label: str) -> str:
        return f"{self._any_of(wordings.CUES)} {self._any_of(wordings.REPLIES).format(k=label)}"


def _join(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _num_tokens(text: str) -> int:
    return len(re.findall(r"[a-z0-9]+|[^a-z0-9\s]", text))


def documents(num_documents: int, seed: int, curriculum: bool = True) -> list[str]:
    """Write the pretraining documents about the default world.

    Args:
        num_documents: How many documents to write.
        seed: Seed of every draw but the world's own.
        curriculum: Whether the documents go from few entities and wordings to all; without it
            all of them are like the last.

    Returns:
        Documents of at most 126 tokens of MiniWorld's tokenizer, to be trained on in this order.

    Raises:
        UserError: If fewer than one document is asked for.
    """
    if num_documents < 1:
        raise UserError(f"num_documents must be at least 1, got {num_documents}")
    writer = _Writer(build_world(), random.Random(f"documents-{seed}"))
    written: list[str] = []
    passages: list[str] = []
    length = 0
    while len(written) < num_documents:
        if curriculum:
            progress = len(written) / num_documents
            writer.lesson = lesson_at(progress, len(writer.entities))
        passage = writer.passage()
        num_tokens = _num_tokens(passage) + 1  # the end-of-text token after it
        if length + num_tokens > MAX_DOCUMENT_TOKENS:
            written.append(f" {END_OF_TEXT} ".join(passages))
            passages, length = [], 0
        passages.append(passage)
        length += num_tokens
    return written
