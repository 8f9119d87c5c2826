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
VERDICT_OPENINGS = (*_PLAIN_OPENINGS, "is it so?", "judge this:")

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
# A verdict has to name the words to answer with: nothing else in it does.
VERDICT_HINTS = (
    "answer format: {labels}",
    "answer with {labels}.",
    "{labels}?",
    "format: {labels}.",
    "labels: {labels}.",
    "say {labels}.",
    "choose {labels}.",
    "please answer with {labels}.",
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

# Instructions in the benchmark's template that are not about labels, with their replies. The
# benchmark's own instructions are not among them; what it lists and its answer formats are.
INSTRUCTIONS = (
    ("please answer the following question in words, question: {question}?", "{statement}"),
    ("please answer the following question in words: {polar}?", "{statement}"),
    ("please answer the following question, question: {polar}?", "{statement}"),
    ("please answer with the correct words: {polar}?", "{statement}"),
    ("please answer the question: {question}? {options}", "{statement}"),
    ("please choose the correct word for the question: {question}? {options}", "{fact}"),
    ("please choose the correct words for the question: {question}? {options}", "{statement}"),
    ("please choose the best answer to the question: {question}? {options}", "{fact}"),
    ("please repeat the question: {question}? {options}", "{question}?"),
    ("please repeat the question: {polar}?", "{polar}?"),
    ("please complete the given sentence: {cloze} {options}", "{cloze} {fact}"),
    ("please choose the correct word to complete the given sentence: {cloze} {options}", "{fact}"),
    ("please fill in the blank to complete the sentence: {cloze} _. {options}", "{cloze} {fact}"),
    ("please list the answers: {options}", "{values}"),
    ("please list the answers to the question: {question}? {options}", "{values}"),
)
TAILS = ("", "answer format: words", "answer format: {labels}", "answer format: {labels}")
LEADS = ("", "", "the correct answer is this:")
