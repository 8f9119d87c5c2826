"""The text of a sample of answers has the template of its prompts once."""

import pytest

from tera_pl.callbacks.predictions import _format_all


def answer(prompt, **more):
    row = {"id": "a-1", "task": "t", "prompt": prompt, "output": "x", "reference": "y"}
    return row | {"correct": False} | more


def test_lines_of_all_prompts_come_once():
    prompts = [f"Below.\n\n### Question:\nwhich {n}?\n\n### Response:\n" for n in ("a", "b")]
    start, end, *rows = _format_all([answer(prompt) for prompt in prompts])
    assert start == "Every prompt starts with\n\n    Below.\n    \n    ### Question:"
    assert end == "Every prompt ends with\n\n    ### Response:"
    assert [row.splitlines()[2] for row in rows] == ["    which a?", "    which b?"]
    assert "".join(rows).count("Response") == 0


@pytest.mark.parametrize(
    "prompts", [["one\ntwo"], ["one\ntwo", "one\ntwo"], ["a\nb", "c\nd"], ["a", "b"], ["", "b"]]
)
def test_prompts_without_a_template_are_complete(prompts):
    rows = list(_format_all([answer(prompt) for prompt in prompts]))
    assert len(rows) == len(prompts)
    for row, prompt in zip(rows, prompts, strict=True):
        assert all(f"    {line}" in row for line in prompt.splitlines())


@pytest.mark.parametrize("prompts", [["a\nq\na\n", "a\na\n"], ["a\n", "a\na\n"], ["a\nb", "a"]])
def test_shared_lines_do_not_overlap(prompts):
    rows = list(_format_all([answer(prompt) for prompt in prompts]))
    shared = "\n".join(row for row in rows if row.startswith("Every"))
    for prompt in prompts:
        lines = [line for line in prompt.splitlines() if line]
        assert all(f"    {line}" in shared + "\n".join(rows) for line in lines)
