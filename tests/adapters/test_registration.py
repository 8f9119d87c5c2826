"""PEFT knows the methods of this project after one import."""

import peft
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import PeftType

from tera_pl.adapters import TeraConfig
from tera_pl.adapters.registration import register
from tera_pl.adapters.tera import TeraModel


def test_peft_knows_tera() -> None:
    assert PeftType("TERA") is PeftType.TERA
    assert PeftType.TERA == "TERA"
    assert PeftType.TERA in list(PeftType)
    assert PEFT_TYPE_TO_CONFIG_MAPPING[PeftType.TERA] is TeraConfig
    assert PEFT_TYPE_TO_TUNER_MAPPING[PeftType.TERA] is TeraModel
    assert peft.get_peft_config({"peft_type": "TERA", "seed": 3}).seed == 3


def test_registering_again_changes_nothing() -> None:
    members = list(PeftType)
    register("tera", TeraConfig, TeraModel)
    assert list(PeftType) == members
