"""The wordings that MiniWorld's pretraining documents are made of.

In each tuple the plain wordings come first: the first documents draw on the front of the tuples
only. A wording that stands twice is twice as likely. `{k}` stands for a label, `{v}` for a value,
`{labels}` for all labels.
"""

from datamodules.miniworld.questions import ANSWERS, ENDINGS, OPTIONS, SOLUTIONS

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
BLANKS = ("", " _.", " ...", ":")

_PLAIN_OPENINGS = (
    "",
    "",
    "question:",
    "quiz:",
    "q:",
    "task:",
    "exam:",
    "tell me,",
    "here is a question:",
)
CHOICE_OPENINGS = (
    *_PLAIN_OPENINGS,
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
VERDICT_OPENINGS = (*_PLAIN_OPENINGS, "is it true?", "{labels}?", "judge this:")

CHOICE_HINTS = (
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
VERDICT_HINTS = (*CHOICE_HINTS, "{labels}?", "please answer with {labels}.")

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

# Tails and leads of the instructions in the benchmark's template that are not about choosing.
TAILS = ("", "", "answer format: words", "answer format: sentence", "answer format: word/word")
LEADS = ("", "", "the correct answer is this: ")
