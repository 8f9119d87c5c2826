"""Whatever a name, a setting or an answer holds, a parser of Markdown finds it as text."""

import json
from types import SimpleNamespace

import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from matplotlib.figure import Figure

from tera_pl.__main__ import main
from tera_pl.callbacks.predictions import _format
from tera_pl.checkpointing.run_spec import ModelSpec
from tera_pl.export.model_card import write_card
from tera_pl.reporting.drawing import save
from tera_pl.reporting.markup import code, code_block, html_text, markdown
from tests.reporting.run_folders import write_run
from tests.soak import more

PARSER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
HOSTILE = [
    "a|b",
    "`code`",
    "``a`",
    "<script>alert(1)</script>",
    "<!-- comment",
    "one\ntwo",
    "one\r\n\r\n# two",
    "---",
    "- - -",
    "===",
    "# head",
    "1. first",
    "> quote",
    "+ item",
    "~~~",
    "```",
    "[text](javascript:alert(1))",
    "![image](http://x)",
    "<http://x>",
    "[1]: http://x",
    "**bold** _em_ __em__ ~~gone~~",
    "a\\|b\\",
    "&lt;b&gt; &#60;",
    "    indented",
    "\ttab",
    "q_proj.k_proj",
    "$x$",
    "| a | b |\n|---|---|\n| 1 | 2 |",
    "",
]
TEXT = st.text(st.sampled_from("ab1 \n`*_[]()<>#+-.!|~&\\:=$") | st.characters(codec="ascii"))
FRAMES = {"{}": "p", "- {}": "li", "## {}": "h2", "> {}": "p", "- [1] {}": "li"}


def shown(text):
    return " ".join(text.translate({0: None}).split())


def check_markdown(value):
    for frame in FRAMES:
        tokens = PARSER.parse(frame.format(f"x {markdown(value)}"))
        inline = [token for token in tokens if token.type == "inline"]
        assert len(inline) == 1, (frame, value)
        assert {child.type for child in inline[0].children} <= {"text", "text_special"}
        text = "".join(child.content for child in inline[0].children)
        assert shown(text).endswith(shown(f"x {value}"))


def check_start(value):
    """At the start of a block no list, heading, rule, quote, HTML or definition begins."""
    tokens = PARSER.parse(markdown(value))
    kinds = [token.type for token in tokens]
    assert kinds in ([], ["paragraph_open", "inline", "paragraph_close"]), value
    if tokens:
        assert shown("".join(c.content for c in tokens[1].children)) == shown(str(value))


def check_cell(value):
    table = f"| a | b |\n|---|---|\n| {markdown(value)} | end |\n"
    tokens = PARSER.parse(table)
    cells = [tokens[i + 1] for i, token in enumerate(tokens) if token.type == "td_open"]
    assert len(cells) == 2, value
    assert cells[1].content == "end"
    assert {child.type for child in cells[0].children} <= {"text", "text_special"}
    assert shown("".join(c.content for c in cells[0].children)) == shown(str(value))


def check_code(value):
    tokens = PARSER.parse(f"- {code(value)} end")
    inline = next(token for token in tokens if token.type == "inline")
    assert [child.type for child in inline.children] == ["code_inline", "text"], value
    assert shown(inline.children[0].content) == shown(str(value))


CHECKS = [check_markdown, check_start, check_cell, check_code]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("value", [*HOSTILE, 3, None, ["a", "b|c"]])
def test_hostile_text_is_shown_as_it_is(value, check):
    check(value if isinstance(value, str) else str(value))


@pytest.mark.parametrize("check", CHECKS)
@settings(max_examples=more(100), deadline=None)
@given(value=TEXT)
def test_any_text_is_shown_as_it_is(check, value):
    check("".join(c for c in value if c.isprintable() or c in "\n\t"))


def test_html_and_blocks():
    rendered = PARSER.render(f"<details><summary>{html_text('</summary>&<b>')}</summary>\n\nx")
    assert "<summary>&lt;/summary&gt;&amp;&lt;b&gt;</summary>" in rendered
    assert "\n" not in html_text("a\n\nb")
    block = PARSER.parse(code_block("a\n\n```\n<b>\n---"))
    assert [token.type for token in block] == ["code_block"]
    assert block[0].content == "a\n\n```\n<b>\n---\n"


EVIL = "e|v`il <script>alert(1)</script> [x](y)\n\n# head\n---\n| a |"


def test_a_report_of_hostile_runs_is_text(tmp_path):
    for seed, name in enumerate(["a", "b"]):
        write_run(
            tmp_path / "runs" / f"x`|<i>{name}",
            {"accuracy": 0.5, f"accuracy/{EVIL}": 0.5},
            seed=seed,
            dataset="MiniWorld",
            backbone=EVIL,
            adapter={"r": [4, EVIL][seed], "$x$": "$\\frac{$"},
            missing={"bleu": EVIL},
        )
    assert main(["report", str(tmp_path / "runs"), "--output", str(tmp_path / "out\n<b>|`")]) == 0
    page = (tmp_path / "out\n<b>|`" / "report.md").read_text()
    tokens = PARSER.parse(page)
    assert not [t for t in tokens if t.type == "html_block" and "details" not in t.content]
    inline = [child for token in tokens for child in token.children or []]
    assert {t.content for t in inline if t.type == "html_inline"} <= {"<u>", "</u>"}
    assert all(t.attrs["href"].endswith(".csv") for t in inline if t.type == "link_open")
    headings = [tokens[i + 1].content for i, t in enumerate(tokens) if t.type == "heading_open"]
    assert len(headings) == 5
    rows = [i for i, t in enumerate(tokens) if t.type == "tr_open"]
    ends = [i for i, t in enumerate(tokens) if t.type == "tr_close"]
    cells = {
        sum(t.type in {"td_open", "th_open"} for t in tokens[start:end])
        for start, end in zip(rows, ends, strict=True)
    }
    assert len(cells) == 1
    assert "<script>" in "".join(t.content for t in inline if t.type == "text")


def test_a_model_card_of_hostile_settings_is_text(tmp_path):
    spec = ModelSpec(
        backbone={
            "path": EVIL,
            "commit": None,
            "revision": EVIL,
            "config_sha256": "0",
            "frozen_weights_sha256": "1",
            "quantization": None,
        },
        tokenizer={"sha256": "2"},
        adapter={"target_modules": EVIL, "```": "```\n```"},
    )
    adapter, backbone = SimpleNamespace(peft_type="LORA"), SimpleNamespace(quantization=None)
    task = SimpleNamespace(adapter=adapter, backbone=backbone, spec=spec)
    results = {"test": {"scores": {EVIL: 0.5}}, "settings": {"protocol": {"template": EVIL}}}
    write_card(tmp_path, task, tmp_path / "---\n# evil|" / "version_0", results, {})
    card = ModelCard((tmp_path / "README.md").read_text())
    assert card.data.to_dict() == {
        "base_model": EVIL,
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["tera_pl", "lora"],
    }
    head = card.content.split("---\n")
    assert yaml.safe_load("---\n".join(head[1 : len(head)]).split("\n---\n")[0]) is not None
    tokens = PARSER.parse(card.text)
    inline = [child for token in tokens for child in token.children or []]
    assert not [t for t in (*tokens, *inline) if t.type.startswith(("html", "link", "image"))]
    titles = [tokens[i + 1].content for i, t in enumerate(tokens) if t.type == "heading_open"]
    assert titles[1:] == ["Scores", "Counts", "Identity", "Protocol", "Adapter"]
    blocks = [json.loads(t.content) for t in tokens if t.type == "fence"]
    assert blocks == [{"template": EVIL}, spec.adapter]
    assert sum(t.type == "tr_open" for t in tokens) == 2 + 7


def test_predictions_are_text():
    prediction = {"task": EVIL, "id": EVIL, "prompt": EVIL, "output": EVIL, "reference": [EVIL]}
    tokens = PARSER.parse(_format(prediction | {"correct": None}, EVIL))
    assert [t.type for t in tokens if t.nesting == 0] == ["inline", "code_block", "inline"]
    inline = [child for token in tokens for child in token.children or []]
    assert {t.type for t in inline} == {
        "text",
        "text_special",
        "strong_open",
        "strong_close",
        "code_inline",
    } - ({"text_special"} - {t.type for t in inline})


def test_a_dollar_in_a_label_is_not_math(tmp_path):
    figure = Figure()
    axes = figure.subplots()
    axes.plot([1, 2], label="r=$\\frac{$")
    axes.set_title("$x^{$")
    figure.legend()
    save(figure, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 0
