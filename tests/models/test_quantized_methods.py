"""Every method on a quantized base: gradients of the dequantized base, or one line that refuses it.

`python -m tests.models.test_quantized_methods` writes the table of docs/quantization.md.
"""

import logging
import tempfile
from pathlib import Path

import peft
import pytest
import torch
from transformers import BitsAndBytesConfig

from tera_pl.adapters import LorettaConfig, LotrConfig, MoraConfig, TeraConfig
from tera_pl.errors import UserError
from tera_pl.models.backbone import Backbone, add_adapter, load_meta_model, load_model
from tera_pl.models.quantization import dequantize
from tera_pl.tasks.checks import try_adapter
from tera_pl.tasks.loss import prepare, supervised_loss
from tests.conftest import ROOT, write_backbone
from tests.methods.peft_methods import classes, settings_of

pytestmark = pytest.mark.slow

PAGE = ROOT / "docs" / "quantization.md"
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
QUANTIZED = {"4 bits": NF4, "8 bits": {"load_in_8bit": True}}
TARGETS = {"target_modules": ["q_proj", "v_proj"]}
OWN = {
    "TERA": (TeraConfig, TARGETS),
    "LORETTA": (LorettaConfig, TARGETS | {"r": 4, "tensor_rank": 2}),
    "MORA": (MoraConfig, TARGETS | {"r": 2}),
    "LOTR": (LotrConfig, TARGETS | {"r": 3}),
    "LORA, use_dora": (peft.LoraConfig, TARGETS | {"use_dora": True}),
    "LORA, olora": (peft.LoraConfig, TARGETS | {"init_lora_weights": "olora"}),
    "LORA, modules_to_save q_proj": (
        peft.LoraConfig,
        {"target_modules": ["v_proj"], "modules_to_save": ["q_proj"]},
    ),
}
# No base supports these: docs/peft_methods.md.
NEVER = {"ADALORA", "MULTITASK_PROMPT_TUNING", "POLY", "XLORA", "ADAMSS"}
METHODS = OWN | {
    kind: (config, settings_of(kind)) for kind, config in classes().items() if kind not in NEVER
}


def gradients(model):
    """The loss and the gradients after one step."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    ids = torch.randint(4, 40, (2, 9), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    for update in (True, False):
        torch.manual_seed(3)
        optimizer.zero_grad()
        loss = supervised_loss(model.train(), prepare(batch, packed=False))[0]
        loss.backward()
        if update:
            optimizer.step()
    found = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    return found | {"loss": loss.detach()}


def build(base, name):
    config, settings = METHODS[name]
    torch.manual_seed(1)
    return add_adapter(base, config(**settings))


def sweep(name, folder):
    """A cell for each quantization: yes, or why the method is refused."""
    cells = {}
    for column, settings in QUANTIZED.items():
        quantization = BitsAndBytesConfig(**settings)
        backbone = Backbone(str(folder), dtype="float32", quantization=quantization)
        config, values = METHODS[name]
        try:  # as a run does, before any weight is read
            try_adapter(load_meta_model(backbone), config(**values))
        except UserError as error:
            cells[column] = str(error)
            continue
        found = gradients(build(load_model(backbone), name))
        expected = gradients(build(dequantize(load_model(backbone), torch.float32), name))
        assert found.keys() == expected.keys()
        values = [value for value in expected.values() if value is not None]
        largest = max(value.abs().max().item() for value in values[:-1])  # without the loss
        assert largest > 0
        for key, value in expected.items():
            if value is not None:
                torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-5 * largest)
        cells[column] = "yes"
    return cells


def as_row(name, cells):
    setting = name.partition(", ")[2]
    label = f"`{METHODS[name][0].__name__}`" + (f", `{setting}`" if setting else "")
    answers = ["yes" if text == "yes" else "no" for text in cells.values()]
    refusal = next((text for text in cells.values() if text != "yes"), "")
    reason = refusal.partition("quantized base: ")[2].partition(": use another")[0]
    return f"| {label} | {' | '.join(answers)} | {reason or refusal} |"


@pytest.mark.parametrize("name", METHODS)
def test_gradients_are_those_of_the_dequantized_base_or_one_line_refuses(name, tiny_backbone):
    cells = sweep(name, tiny_backbone)
    assert as_row(name, cells) in PAGE.read_text(encoding="utf-8").splitlines()
    for text in cells.values():
        assert text == "yes" or "quantized" in text
        assert "\n" not in text


def test_the_page_has_a_row_for_each(tiny_backbone):
    rows = [line for line in PAGE.read_text().splitlines() if line.endswith(" |")]
    assert len([row for row in rows if "Config`" in row]) == len(METHODS)


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as place:
        base = write_backbone(Path(place))
        rows = [as_row(name, sweep(name, base)) for name in METHODS]
    text = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    head = text.partition("| `TeraConfig`")[0]
    PAGE.write_text(head + "\n".join(rows) + "\n", encoding="utf-8")
