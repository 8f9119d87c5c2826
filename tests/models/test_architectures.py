"""Models of many architectures: packed attention is exact or not used."""

import json

import pytest
import torch

from tera_pl.errors import UserError
from tera_pl.models.attention import PACKABLE, check_attention, choose_attention, why_not_packed
from tera_pl.models.backbone import Backbone, load_config, load_model
from tera_pl.models.packed_attention import ATTENTION, pack
from tests.models.architectures import CONFIGS, tiny_config, tiny_model
from tests.models.model_table import COMMAND, PAGE, SWEPT, as_page, as_row, sweep

LENGTHS = [7, 3, 11, 1]
# The products of experts have no kernel for doubles.
SINGLE = {name for name, settings in CONFIGS.items() if "num_experts_per_tok" in settings}


def packed_and_separate(name):
    """Logits of sequences in one packed row, and of one after the other by transformers' eager."""
    dtype = torch.float32 if name in SINGLE else torch.float64
    packed, plain = (
        tiny_model(name, 50, attention).to(dtype).eval() for attention in (ATTENTION, "eager")
    )
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 50, (len(LENGTHS), max(LENGTHS)), generator=generator)
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    inputs = pack({"input_ids": ids, "attention_mask": mask})
    with torch.no_grad():
        found = packed(**inputs, use_cache=False).logits[0]
        rows = [plain(ids[i : i + 1, :n]).logits[0] for i, n in enumerate(LENGTHS)]
    assert packed.config._attn_implementation == ATTENTION
    assert plain.config._attn_implementation == "eager"
    return found, torch.cat(rows)


@pytest.mark.parametrize("name", sorted(PACKABLE))
def test_packed_logits_are_those_of_one_sequence_after_the_other(name):
    assert why_not_packed(tiny_config(name, 50), trusted=False) is None
    found, expected = packed_and_separate(name)
    # Eager attention takes its softmax in float32.
    allowed = 1e-5 if name in SINGLE else 2e-6
    assert (found - expected).abs().max() <= allowed * expected.abs().max()


@pytest.mark.parametrize("name", ["stablelm", "nemotron"])
def test_packing_where_it_is_not_known_to_be_exact_would_be_wrong_without_an_error(name):
    """These do not pass the lengths on, so the list is needed."""
    found, expected = packed_and_separate(name)
    assert (found - expected).abs().max() > 0.1 * expected.abs().max()


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("falcon", {}, "packed attention is not known to be exact for falcon"),
        ("stablelm", {}, "not known to be exact for stablelm"),
        ("gemma2", {}, r"gemma2 has soft caps \(attn_logit_softcapping\)"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "gemma3_text is not causal"),
    ],
)
def test_where_packing_is_not_exact(name, changes, reason):
    config = tiny_config(name, 50)
    for key, value in changes.items():
        setattr(config, key, value)
    assert choose_attention("auto", config, trusted=False) is None
    check_attention("auto", config, trusted=False)
    with pytest.raises(UserError, match=reason):
        check_attention(ATTENTION, config, trusted=False)


def test_code_that_comes_with_a_model_is_not_packed(tmp_path):
    tiny_config("llama", 50).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    written = json.loads(path.read_text()) | {"auto_map": {"AutoModelForCausalLM": "own.Own"}}
    path.write_text(json.dumps(written))
    # Its configuration is transformers' own, its model would be in own.py.
    with pytest.raises(UserError, match="attention of this llama is in code that comes with"):
        load_config(Backbone(str(tmp_path), attn_implementation=ATTENTION, trust_remote_code=True))
    load_config(Backbone(str(tmp_path), attn_implementation=ATTENTION))


@pytest.mark.parametrize(
    ("name", "attention", "lines"), [("llama", ATTENTION, 0), ("falcon", "sdpa", 1)]
)
def test_default_attention_is_loaded_with_a_line_where_it_is_not_packed(
    name, attention, lines, tmp_path, recwarn
):
    tiny_model(name, 50).save_pretrained(tmp_path)
    recwarn.clear()
    model = load_model(Backbone(str(tmp_path), dtype="float32"))
    assert model.config._attn_implementation == attention
    found = [str(warning.message) for warning in recwarn if "padded" in str(warning.message)]
    reason = f"batches are padded: packed attention is not known to be exact for {name}"
    assert found == [reason] * lines


@pytest.mark.slow
@pytest.mark.parametrize("name", SWEPT)
def test_from_fit_to_merged_model_as_the_page_says(name, tiny_backbone, tiny_commonsense, tmp_path):
    row = as_row(name, sweep(name, tiny_backbone, tiny_commonsense, tmp_path))
    assert row in PAGE.read_text(encoding="utf-8").splitlines()


def test_page_is_the_one_that_is_written():
    text = PAGE.read_text(encoding="utf-8")
    rows = [
        line for line in text.splitlines() if line.startswith("| `") and "model_type" not in line
    ]
    assert text == as_page(rows), f"run {COMMAND}"
    assert [row.split("`")[1] for row in rows] == list(SWEPT)
