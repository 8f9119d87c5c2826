"""Letters of options: the literature's rule and the sound one, against tables and logs."""

import json
import re

import pytest

from tera_pl.metrics import MathAccuracy, OptionLetterAccuracy, extract_option_letter
from tera_pl.metrics.option_letter import extract_option_value

CASES = [
    # text, the literature's result, the strict one
    ("The answer is B", "B", "B"),
    ("the answer is (C).", "C", "C"),
    ("Answer: D) 5", "A", "D"),
    ("Option D.", "D", "D"),
    ("Divide by 3, so the answer is (B).", "D", "B"),
    ("Divide", "D", None),
    ("(B) is wrong, so C", "B", "C"),
    ("therefore, the answer is C.", "C", "C"),
    ("not B", "B", None),
    ("The answer is not B", "B", None),
    ("The answer is not B but D", "B", "D"),
    ("(A) 5 (B) 6 (C) 7", "A", None),
    ("(A) 5 (B) 6. The answer is (A). Wait, the answer is (B)", "A", "B"),
    ("A", "A", "A"),
    ("B)", "B", "B"),
    ("E.", "E", "E"),
    ("A man walks 5 miles", "A", None),
    ("A correct solution gives x", "A", None),
    ("E-mail", "E", None),
    ("", None, None),
    ("the answer is b", None, None),
    ("ответ: C", "C", "C"),
    ("Б", None, None),
    ("B is correct", "B", "B"),
    ("So B is the answer", "B", "B"),
    ("Therefore, option C is correct and option D is wrong", "C", "C"),
    ("The answer is B. Option A is too small.", "B", "B"),
    ("the correct option is (D), not (A)", "D", "D"),
    ("Choice B is wrong", "C", None),
    ("neither A nor B; C", "A", "C"),
    ("A cannot be. B", "A", "B"),
    ("The answer is B or C", "B", None),
    ("The answers are A, B and C", "A", None),
    ("Both A and B walk. Answer: E", "B", "E"),
    ("**A** is 3. The answer is **B**", "A", "B"),
    ("the answer is $\\boxed{\\text{C}}$", "C", "C"),
    ("Let C be the cost", "C", None),
    ("[B]", "B", "B"),
]


@pytest.mark.parametrize(("text", "literature", "strict"), CASES)
def test_extraction(text, literature, strict):
    assert extract_option_letter(text) == literature
    assert extract_option_letter(text, strict=True) == strict


@pytest.mark.parametrize("text", [case[0] for case in CASES])
def test_first_capital_is_the_published_scorer(text):
    found = re.findall(r"A|B|C|D|E", text)
    assert extract_option_letter(text) == (found[0] if found else None)


TEST_STYLE = "How far? Answer Choices: (A) 60 m (B) 61 m (C) 1,200 m (D) 60.5 m (E) None of these"
TRAIN_STYLE = "How much? The options are: A)1.25% B)2.1% C)3 D)x - 1 E)none"


@pytest.mark.parametrize(
    ("text", "prompt", "letter"),
    [
        ("that makes 61.", TEST_STYLE, "B"),
        ("the distance is 1200 m", TEST_STYLE, "C"),
        ("30 + 30 = 60 m", TEST_STYLE, "A"),
        ("so it is none of these", TEST_STYLE, "E"),
        ("it is 99", TEST_STYLE, None),
        ("it is 2.1%", TRAIN_STYLE, "B"),
        ("that is x - 1", TRAIN_STYLE, "D"),
        ("", TRAIN_STYLE, None),
        ("it is 3", "no options here", None),
        ("it is 3", "Answer Choices: (A) 3 (B) 3.0 (C) 5", None),
    ],
)
def test_value_stands_for_its_letter(text, prompt, letter):
    assert extract_option_value(text, prompt) == letter


def test_value_counts_only_in_the_strict_form():
    record = {"task": "AQuA", "reference": "B", "prompt": TEST_STYLE, "choices": list("ABCDE")}
    assert OptionLetterAccuracy.judge("it makes 61.", record) == {
        "extracted": None,
        "correct": False,
        "extracted_strict": "B",
        "correct_strict": True,
    }


def test_math_takes_letters_where_there_are_choices():
    letter = {"task": "AQuA", "reference": "B", "prompt": TEST_STYLE, "choices": list("ABCDE")}
    number = {"task": "SVAMP", "reference": "61.0", "prompt": "", "choices": None}
    metric = MathAccuracy()
    metric.update(["The answer is 61 m", "The answer is 61 m"], [letter, number])
    scores = metric.compute()
    assert scores["accuracy/AQuA"] == 0
    assert scores["accuracy_strict/AQuA"] == 1
    assert scores["accuracy/SVAMP"] == scores["accuracy_strict/SVAMP"] == 1


def test_published_log_scores_as_published(shared):
    """The log of a language model on AQuA, right in 123 of 254 by its authors' count."""
    items = json.loads((shared / "data" / "math" / "AQuA" / "test.json").read_text())
    metric = OptionLetterAccuracy()
    records = [
        {"task": "AQuA", "reference": item["answer"], "prompt": item["instruction"]}
        for item in items
    ]
    metric.update([item["output"] for item in items], records)
    scores = metric.compute()
    assert round(scores["accuracy_strict"].item() * 254) == 123
    # The published rule calls 14 of those wrong.
    assert round(scores["accuracy"].item() * 254) == 109
