"""What MiniWorld's base model is pretrained on: statements of facts, and choices among values.

A document is a sequence of short passages, each ended by the end-of-text token. There are four
kinds of passage:

    facts       a fact in one of many wordings
    choice      a question with labelled options in one of many wordings, answered by a label
    verdict     a statement or question judged as true or false, yes or no, ...
    reply       an instruction in the benchmark's template whose reply is something else: the
                fact in words, the question again, the list of the values

Choices and verdicts never wear the benchmark's template, and what wears it never answers by a
label: picking a label there is what fine-tuning has to bring about. Every word and sign of the
benchmark does occur, for a frozen base cannot utter words that it never met.
"""

import math
import random
import re
from collections.abc import Sequence

from datamodules.miniworld.questions import ANSWERS, ENDINGS, OPTIONS, SOLUTIONS, draw_values
from datamodules.miniworld.world import ATTRIBUTES, Attribute, World, build_world

END_OF_TEXT = "</s>"
MAX_DOCUMENT_TOKENS = 126

HEADER = (
    "below is an instruction that describes a task. write a response that appropriately"
    " completes the request. ### instruction:"
)

LABEL_SCHEMES = (
    ("a", "b", "c", "d"),
    ("w", "x", "y", "z"),
    ("1", "2", "3", "4"),
    ("one", "two", "three", "four"),
    ("first", "second", "third", "fourth"),
    ("circle", "square", "star", "moon"),
    ("north", "east", "south", "west"),
    ANSWERS,
    (*SOLUTIONS, "solution3", "solution4"),
    ENDINGS,
    (*OPTIONS, "option3", "option4"),
)

VERDICTS = (("true", "false"), ("yes", "no"), ("right", "wrong"), ("correct", "incorrect"))

LISTINGS = (
    "{k}: {v}",
    "({k}) {v}",
    "{k}) {v}",
    "{k}. {v}",
    "{k} = {v}",
    "{k} - {v}",
    "[{k}] {v}",
    "{k} is {v}",
    "{k} for {v}",
    "{k} {v}",
)
SEPARATORS = (" ", " ", ", ", "; ", " or ", " / ")

OPENINGS = (
    "",
    "",
    "question:",
    "quiz:",
    "q:",
    "task:",
    "exam:",
    "tell me,",
    "here is a question:",
    "choose the right label:",
    "please choose the label that fits:",
    "pick one:",
    "select the correct option:",
    "please choose the best answer:",
    "the following question has one answer.",
    "read the question and choose:",
    "### question:",
    "instruction: choose.",
    "to complete the task, choose the correct ending.",
    "a test:",
)

HINTS = (
    "",
    "",
    "",
    "format: {labels}.",
    "answer with {labels}.",
    "answer format: {labels}",
    "labels: {labels}.",
    "say {labels}.",
    "choose {labels}.",
)

CUES = (
    "answer:",
    "a:",
    "reply:",
    "response:",
    "=",
    "### answer:",
    "### reply:",
    "choice:",
    "label:",
    "so:",
    "result:",
    "-",
    "we say:",
    "solution:",
)

REPLIES = (
    "{k}",
    "{k}",
    "{k}.",
    "it is {k}.",
    "the answer is {k}",
    "the right answer is {k}.",
    "the correct label is {k}",
    "the correct one is {k}.",
    "i choose {k}.",
    "i say {k}",
    "my choice is {k}",
    "correct is {k}.",
    "that is {k}.",
    "{k} is correct.",
    "{k} is the answer",
    "{k}, i think.",
    "we pick {k}.",
    "label {k} fits.",
)


def _pick(rng: random.Random, choices: Sequence[str]) -> str:
    return choices[rng.randrange(len(choices))]


def _join(*parts: str) -> str:
    return " ".join(part for part in parts if part)


class _Writer:
    """Writes passages about one world.

    Args:
        world: What is true.
        rng: Source of every draw.
    """

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world = world
        self.rng = rng
        self.entities = world.entities

    def _subject(self) -> tuple[str, Attribute, str]:
        entity = _pick(self.rng, self.entities)
        attribute = ATTRIBUTES[self.rng.randrange(len(ATTRIBUTES))]
        return entity, attribute, self.world.facts[entity, attribute.name]

    def facts(self) -> str:
        """State one fact."""
        entity, attribute, fact = self._subject()
        shape = self.rng.randrange(4)
        if shape == 0:
            question = _pick(self.rng, attribute.questions).format(e=entity)
            return f"{question}? {fact}."
        if shape == 1:
            return f"{_pick(self.rng, attribute.clozes).format(e=entity)} {fact}."
        return f"{_pick(self.rng, attribute.statements).format(e=entity, v=fact)}."

    def _few(self, items):
        """Draw from the first few items only, while the writer is young."""
        return items[self.rng.randrange(max(1, math.ceil(self.breadth * len(items))))]

    def choice(self) -> str:
        """Ask with labelled options and answer by a label."""
        rng = self.rng
        entity, attribute, fact = self._subject()
        num_options = rng.choice((2, 2, 3, 4, 4))
        labels = list(self._few(LABEL_SCHEMES)[:num_options])
        if rng.random() < 0.3 * self.breadth:
            rng.shuffle(labels)
        position = rng.randrange(num_options)
        values = draw_values(attribute, fact, position, num_options, rng)
        listing, separator = self._few(LISTINGS), self._few(SEPARATORS)
        options = separator.join(
            listing.format(k=label, v=value) for label, value in zip(labels, values, strict=True)
        )
        if rng.random() < 0.5:
            question = f"{_pick(rng, attribute.questions).format(e=entity)}?"
        else:
            blank = self._few(("", " _.", " ...", ":"))
            question = f"{_pick(rng, attribute.clozes).format(e=entity)}{blank}"
        asked = (
            [question, options] if rng.random() < 1 - 0.2 * self.breadth else [options, question]
        )
        hint = self._few(HINTS).format(labels="/".join(labels))
        reply = self._few(REPLIES).format(k=labels[position])
        given = ""
        if rng.random() < self.given:
            given = _pick(rng, attribute.statements).format(e=entity, v=fact) + "."
        if rng.random() < self.two:
            reply = f"{fact}, {reply}"
        return _join(given, self._few(OPENINGS), *asked, hint, self._few(CUES), reply)

    def verdict(self) -> str:
        """Judge a statement or a polar question."""
        rng = self.rng
        entity, attribute, fact = self._subject()
        words = self._few(VERDICTS)
        truth = rng.randrange(2)
        value = fact if truth == 0 else draw_values(attribute, fact, 1, 2, rng)[0]
        if rng.random() < 0.6:
            asked = f"{_pick(rng, attribute.polar).format(e=entity, v=value)}?"
        else:
            asked = f"{_pick(rng, attribute.statements).format(e=entity, v=value)}."
        hint = self._few((*HINTS, "{labels}?", "please answer with {labels}."))
        hint = hint.format(labels=rng.choice(("/", " or ")).join(words))
        hinted = [asked, hint] if rng.random() < 0.7 else [hint, asked]
        reply = self._few(REPLIES).format(k=words[truth])
        opening = self._few((*OPENINGS[:9], "is it true?", "{}, {}?".format(*words), "judge this:"))
        return _join(opening, *hinted, self._few(CUES), reply)

    def reply(self) -> str:
        """Follow an instruction of another kind, in the benchmark's template."""
        rng = self.rng
        entity, attribute, fact = self._subject()
        scheme = rng.choice((ANSWERS, SOLUTIONS, ENDINGS, OPTIONS))
        values = draw_values(attribute, fact, rng.randrange(len(scheme)), len(scheme), rng)
        options = " ".join(f"{k}: {v}" for k, v in zip(scheme, values, strict=True))
        question = _pick(rng, attribute.questions).format(e=entity)
        cloze = _pick(rng, attribute.clozes).format(e=entity)
        polar = _pick(rng, attribute.polar).format(e=entity, v=rng.choice((fact, values[0])))
        statement = _pick(rng, attribute.statements).format(e=entity, v=fact)
        cases = (
            (f"please answer the following question: {question}?", f"{statement}"),
            (f"please answer the question: {question}? {options}", f"{statement}"),
            (f"please answer the question in words: {polar}?", f"{statement}"),
            (f"please answer the following question: {polar}?", f"{statement}"),
            (f"please repeat the question: {question}? {options}", f"{question}?"),
            (f"please repeat the question: {polar}?", f"{polar}?"),
            (f"please complete the given sentence: {cloze} {options}", f"{cloze} {fact}"),
            (f"please fill in the blank to complete the sentence: {cloze} _.", f"{cloze} {fact}"),
            (f"please list the answers: {options}", ", ".join(values)),
            (f"please list the answers to the question: {question}? {options}", ", ".join(values)),
        )
        instruction, response = rng.choice(cases)
        tail = rng.choice(
            ("", "", "answer format: words", "answer format: sentence", "answer format: word/word")
        )
        lead = rng.choice(("", "", "the correct answer is this: "))
        return f"{_join(HEADER, instruction, tail)} ### response: {lead}{response}"


_WEIGHTS = {"facts": 0.3, "choice": 0.45, "verdict": 0.15, "reply": 0.1}


def _num_tokens(text: str) -> int:
    return len(re.findall(r"[a-z0-9]+|[^a-z0-9\s]", text))


def documents(
    num_documents: int,
    seed: int,
    _WEIGHTS=_WEIGHTS,
    num_entities=None,
    breadth=1.0,
    given=0.0,
    two=0.0,
) -> list[str]:
    rng = random.Random(f"documents-{seed}")
    writer = _Writer(build_world(), rng)
    writer.breadth = breadth
    writer.given = given
    writer.two = two
    es = list(writer.entities)
    random.Random(5).shuffle(es)
    writer.entities = es[:num_entities]
    kinds, weights = list(_WEIGHTS), list(_WEIGHTS.values())
    written: list[str] = []
    passages: list[str] = []
    length = 0
    while len(written) < num_documents:
        passage = getattr(writer, rng.choices(kinds, weights)[0])()
        num_tokens = _num_tokens(passage) + 1
        if length + num_tokens > MAX_DOCUMENT_TOKENS:
            written.append(f" {END_OF_TEXT} ".join(passages))
            passages, length = [], 0
        passages.append(passage)
        length += num_tokens
    return written
