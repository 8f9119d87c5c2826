"""The code in the card of an adapter loads it, and without its import PEFT does what it says."""

import re
import textwrap

import peft
import pytest
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from transformers import AutoModelForCausalLM

from tera_pl.adapters import TeraConfig
from tera_pl.checkpointing.adapter_card import how_to_load, write_adapter_card


def code_of(card, folder):
    block = re.search(r"^    .*\n(?:    .*\n|\n(?=    ))+", card, re.MULTILINE).group()
    return textwrap.dedent(block).replace("<this folder>", str(folder))


def test_code_of_the_card_loads_the_adapter(tiny_backbone, tmp_path, monkeypatch):
    base = AutoModelForCausalLM.from_pretrained(tiny_backbone)
    config = TeraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM")
    model = peft.get_peft_model(base, config).eval()
    model.save_pretrained(tmp_path)
    write_adapter_card(tmp_path, config, str(tiny_backbone))
    code = code_of((tmp_path / "README.md").read_text(), tmp_path)
    assert code.startswith("import tera_pl.adapters")
    found = {}
    exec(code, found)
    ids = torch.arange(4, 12)[None]
    assert torch.equal(found["model"](input_ids=ids).logits, model(input_ids=ids).logits)
    # As in a process that does not import it.
    monkeypatch.delitem(PEFT_TYPE_TO_CONFIG_MAPPING, "TERA")
    with pytest.raises(KeyError, match=r"^'TERA'$"):
        exec(code, {})
    assert "`KeyError: 'TERA'`" in (tmp_path / "README.md").read_text()


def test_methods_of_peft_need_no_import():
    assert "tera_pl" not in how_to_load(peft.LoraConfig())
