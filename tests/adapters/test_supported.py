"""Methods and settings of PEFT that need more than a run does are refused by their name."""

import peft
import pytest

from tera_pl.adapters.supported import UNSUPPORTED, UNSUPPORTED_SETTINGS, check_supported
from tera_pl.errors import UserError

CPT = {"task_type": "CAUSAL_LM", "cpt_token_ids": [1], "cpt_mask": [1], "cpt_tokens_type_mask": [1]}
PROMPT = {"num_virtual_tokens": 3}
METHODS = {
    "ADALORA": peft.AdaLoraConfig(total_step=10),
    "MULTITASK_PROMPT_TUNING": peft.MultitaskPromptTuningConfig(**PROMPT, num_tasks=1),
    "POLY": peft.PolyConfig(),
    "XLORA": peft.XLoraConfig(adapters={}, hidden_size=24),
}
# Method, setting, its other settings, a value that is refused and one that is not.
SETTINGS = [
    ("ADAMSS", "use_asa", peft.AdamssConfig, {}, True, False),
    ("CPT", "opt_weighted_loss_type", peft.CPTConfig, CPT, "decay", "none"),
    ("SHADOW", "auxiliary_loss_weight", peft.ShadowConfig, {}, 0.05, 0.0),
    ("LORA", "init_lora_weights", peft.LoraConfig, {}, "eva", "olora"),
    ("LORA", "init_lora_weights", peft.LoraConfig, {}, "lora_ga", True),
    ("LORA", "init_lora_weights", peft.LoraConfig, {}, "corda", "pissa"),
]


@pytest.mark.parametrize("name", METHODS)
def test_method_with_a_training_loop_of_its_own_is_refused(name):
    with pytest.raises(UserError, match=rf"^{type(METHODS[name]).__name__} cannot be trained here"):
        check_supported(METHODS[name])


@pytest.mark.parametrize(("method", "name", "config", "others", "refused", "accepted"), SETTINGS)
def test_setting_that_needs_more_than_a_run_is_refused_by_its_name(
    method, name, config, others, refused, accepted
):
    if method == "ADAMSS":
        pytest.importorskip("sklearn")  # its configuration cannot be built without
    assert config(**others, **{name: accepted}).peft_type == method
    check_supported(config(**others, **{name: accepted}))
    message = rf"^{config.__name__} cannot be trained here with {name} {refused!r}: "
    with pytest.raises(UserError, match=message) as error:
        check_supported(config(**others, **{name: refused}))
    assert "\n" not in str(error.value)


def test_each_refusal_has_its_case():
    assert METHODS.keys() == UNSUPPORTED.keys()
    assert {case[:2] for case in SETTINGS} == {entry[:2] for entry in UNSUPPORTED_SETTINGS}
