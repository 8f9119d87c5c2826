"""Numbers out of text: the literature's rule and the sound one, against tables and logs."""

import json
import re

import pytest

from tera_pl.metrics import NumericAccuracy, extract_number

CASES = [
    # text, the literature's result, the strict one
    ("The answer is 42.", 42.0, 42.0),
    ("1,234.50", 1234.5, 1234.5),
    ("-3", -3.0, -3.0),
    ("5.", 5.0, 5.0),
    ("", None, None),
    ("none", None, None),
    ("5 - 3 = 2", 2.0, 2.0),
    ("it is 5-3", -3.0, 3.0),
    ("12 apples and 3 pears", 3.0, 3.0),
    ("1, 2, 3", 3.0, 3.0),
    ("3,4", 34.0, None),
    ("1,23", 123.0, None),
    ("1.2.3", 3.0, None),
    ("x2", 2.0, None),
    ("10,000,000", 1e7, 1e7),
    ("The answer is $1,000.", 1000.0, 1000.0),
    ("100%", 100.0, 100.0),
    ("#### 7", 7.0, 7.0),
    ("The answer is 5. Check in 2020.", 2020.0, 5.0),
    ("The answer in Arabic numerals is:\n\n16", 16.0, 16.0),
    ("Answer: -4", -4.0, -4.0),
    ("The answer is clear", None, None),
    ("7, so the answer is clear", 7.0, 7.0),
    ("ответ 42", 42.0, 42.0),
    ("答案是 3.5", 3.5, 3.5),
    ("The answer is 4 * 5 = 20", 20.0, 20.0),
    ("The answer is $12 - $5 = $7", 7.0, 7.0),
    ("The answer is 5\n\n3 = 3", 3.0, 5.0),
    ("The answer is 5 (since 10 / 2 = 5.0)", 5.0, 5.0),
    ("It should be 8. The answer would be 7 for 6", 6.0, 7.0),
    ("The answer is 3/4", 4.0, 0.75),
    ("1/0", 0.0, None),
    ("on 3/4/2020", 2020.0, None),
    ("at 10:30", 30.0, None),
    ("The answer is .5", 5.0, 0.5),
    ("the answer is -$5", 5.0, -5.0),
    ("the answer is \N{MINUS SIGN}5", 5.0, -5.0),
    ("12.5km", 12.5, None),
    ("1,234km", 1234.0, None),
    ("2nd", 2.0, None),
    ("1e5", 5.0, None),
]


@pytest.mark.parametrize(("text", "literature", "strict"), CASES)
def test_extraction(text, literature, strict):
    assert extract_number(text) == literature
    assert extract_number(text, strict=True) == strict


@pytest.mark.parametrize("text", [case[0] for case in CASES])
def test_last_number_is_the_published_scorer(text):
    found = [float(number) for number in re.findall(r"-?\d+\.?\d*", text.replace(",", ""))]
    assert extract_number(text) == (found[-1] if found else None)


def test_right_is_within_a_thousandth():
    records = [{"task": "t", "reference": reference} for reference in ("8.0", "8", "8", "1,000")]
    outputs = ["7.9991", "8.002", "no number", "1000"]
    metric = NumericAccuracy()
    metric.update(outputs, records)
    assert metric.compute()["accuracy"] == 0.5
    assert metric.compute()["extracted"] == 0.75


@pytest.mark.parametrize("reference", ["B", "nan", "inf", "", "1 2"])
def test_reference_without_a_number_is_named(reference):
    with pytest.raises(ValueError, match=rf"file:3: reference '{reference}': expected a number"):
        NumericAccuracy.judge("8", {"task": "t", "reference": reference, "id": "file:3"})


@pytest.mark.parametrize(("task", "right"), [("SVAMP", 803), ("gsm8k", 771)])
def test_published_logs_score_as_published(shared, task, right):
    items = json.loads((shared / "data" / "math" / task / "test.json").read_text())
    metric = NumericAccuracy()
    records = [{"task": task, "reference": item["answer"]} for item in items]
    metric.update([item["output"] for item in items], records)
    assert round(metric.compute()["accuracy"].item() * len(items)) == right
