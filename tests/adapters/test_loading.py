"""An adapter's file is loaded as it was saved, or not at all: in plain peft, for every method."""

import dataclasses
import json
import re
import typing
from collections.abc import Callable
from typing import Literal

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from tera_pl.adapters import (
    LoraXsConfig,
    LorettaConfig,
    LotrConfig,
    MoraConfig,
    NolaConfig,
    TeraConfig,
)

SAVED = {"target_modules": ["q_proj", "v_proj"], "modules_to_save": ["lm_head"]}
CONFIGS = {
    "tera": lambda: TeraConfig(**SAVED, seed=3),
    "tera_with_frozen": lambda: TeraConfig(**SAVED, save_frozen=True),
    "loretta": lambda: LorettaConfig(**SAVED, r=4, tensor_rank=2),
    "mora": lambda: MoraConfig(**SAVED, r_hat=8),
    "lotr": lambda: LotrConfig(**SAVED, r=3),
    "lora_xs": lambda: LoraXsConfig(**SAVED, r=4),
    "nola": lambda: NolaConfig(**SAVED, r=2, k=5),
}


def nan(value):
    value = value.clone()
    value.reshape(-1)[-1] = float("nan")
    return value


def save(folder, llama, method):
    peft.get_peft_model(llama(), CONFIGS[method]()).save_pretrained(folder)
    return load_file(folder / "adapter_model.safetensors")


def load(folder, llama):
    return peft.PeftModel.from_pretrained(llama(), folder)


def trained(state):
    """Name a tensor of the method: none that is saved beside, as frozen or in full."""
    return next(name for name in state if "self_attn" in name)


DAMAGES = {
    "missing": (lambda state, name: {k: v for k, v in state.items() if k != name}, "lacks 1 "),
    "unknown": (lambda state, name: state | {"more": torch.ones(2)}, "and has 1 "),
    "nan": (lambda state, name: state | {name: nan(state[name])}, "NaN or infinite"),
    "integer": (lambda state, name: state | {name: state[name].int()}, "is torch.int32 of shape"),
    "shape": (lambda state, name: state | {name: torch.ones(1, 2, 3)}, "of shape (1, 2, 3)"),
    "value": (lambda state, name: state | {name: state[name] + 1}, "weights_sha256"),
    "saved in full": (
        lambda state, name: {k: v + 1 if "lm_head" in k else v for k, v in state.items()},
        "weights_sha256",
    ),
}


@pytest.mark.parametrize("method", CONFIGS)
def test_damaged_file_is_refused_by_the_name_of_the_tensor(method, llama: Callable, tmp_path):
    state = save(tmp_path, llama, method)
    load(tmp_path, llama)
    name = trained(state)
    for case, (damage, message) in DAMAGES.items():
        save_file(damage(dict(state), name), tmp_path / "adapter_model.safetensors")
        with pytest.raises(ValueError, match=re.escape(message)) as error:
            load(tmp_path, llama)
        line = str(error.value)
        assert "\n" not in line
        if "weights_sha256" not in message:
            # In the model, names have that of the adapter in them.
            assert ("more" if case == "unknown" else name) in line.replace(".default", ""), case


def edit(folder, **changes):
    path = folder / "adapter_config.json"
    config = {k: v for k, v in (json.loads(path.read_text()) | changes).items() if v != "absent"}
    path.write_text(json.dumps(config))


@pytest.mark.parametrize("absent", [None, "absent"])
@pytest.mark.parametrize(
    ("method", "field"),
    [
        ("tera", "frozen_sha256"),
        ("tera", "weights_sha256"),
        ("tera", "settings_sha256"),
        ("lotr", "weights_sha256"),
        ("lotr", "settings_sha256"),
    ],
)
def test_adapter_without_its_hash_is_refused_and_accepted_deliberately(
    method, field, absent, llama: Callable, tmp_path
):
    save(tmp_path, llama, method)
    edit(tmp_path, **{field: absent})
    with pytest.raises(ValueError, match=rf"^{field}: .* accept it by writing") as error:
        load(tmp_path, llama)
    (written,) = re.findall(r'"(\w+)": "(\w{64})"', str(error.value))
    edit(tmp_path, **dict([written]))
    load(tmp_path, llama)


BOUND = {
    "tera": {"scaling": 2.0},
    "loretta": {"alpha": 8.0},
    "mora": {"form": "sharing"},
    "lotr": {"alpha": 2.0},
    "lora_xs": {"scaling": 2.0},
    "nola": {"scaling": 2.0},
}


@pytest.mark.parametrize("method", BOUND)
def test_edited_scaling_is_refused_and_accepted_deliberately(method, llama: Callable, tmp_path):
    save(tmp_path, llama, method)
    edit(tmp_path, **BOUND[method])
    (name,) = BOUND[method]
    refusal = rf'^settings_sha256: .*"{name}": .* a setting that changes what the adapter computes'
    with pytest.raises(ValueError, match=refusal) as error:
        load(tmp_path, llama)
    model = peft.get_peft_model(llama(), CONFIGS[method]())
    with pytest.raises(ValueError, match=refusal):
        model.load_adapter(tmp_path, "second")
    (written,) = re.findall(r'"(\w+)": "(\w{64})"', str(error.value))
    edit(tmp_path, **dict([written]))
    loaded = load(tmp_path, llama)
    assert getattr(loaded.peft_config["default"], name) == BOUND[method][name]


def test_settings_changed_in_python_are_the_users(llama: Callable, input_ids, tmp_path):
    model = peft.get_peft_model(llama(), TeraConfig(target_modules=["q_proj"], init_weights=False))
    model.save_pretrained(tmp_path / "one")
    config = peft.PeftConfig.from_pretrained(tmp_path / "one")
    config.scaling = 3.0
    changed = peft.PeftModel.from_pretrained(llama(), tmp_path / "one", config=config)
    found = changed(input_ids).logits
    assert not torch.equal(found, model(input_ids).logits)
    # Saved with it, it is what belongs to the tensors.
    changed.save_pretrained(tmp_path / "two")
    assert torch.equal(load(tmp_path / "two", llama)(input_ids).logits, found)


def others(value, hint):
    """Other values for a field of a configuration."""
    if choices := [choice for kind in hints(hint) for choice in typing.get_args(kind)]:
        found = [choice for choice in choices if isinstance(choice, str)]
    elif isinstance(value, bool):
        found = [not value]
    elif isinstance(value, int | float):
        found = [2 * value + 1, value + 1]
    else:
        found = [None, [], ["q_proj"], [0], 1, 2]
    return [other for other in [*found, 1 if choices else None] if other != value]


def hints(hint):
    return [kind for kind in (hint, *typing.get_args(hint)) if typing.get_origin(kind) is Literal]


@pytest.mark.slow
@pytest.mark.parametrize("method", [name for name in CONFIGS if name != "tera_with_frozen"])
def test_no_edit_of_a_setting_changes_outputs(method, llama: Callable, input_ids, tmp_path):
    config = CONFIGS[method]()
    # Equal sizes, where shared or swapped factors would fit; and updates that are not zero.
    config.target_modules, config.init_weights = {"q_proj", "o_proj"}, False
    model = peft.get_peft_model(llama(), config).eval()
    model.save_pretrained(tmp_path)
    expected = model(input_ids).logits
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    types = typing.get_type_hints(type(config))
    inherited = {f.name for f in dataclasses.fields(peft.PeftConfig)}
    hashes = {name for name in saved if name.endswith("_sha256")} - {"frozen_sha256"}
    fields = {f.name for f in dataclasses.fields(config)}
    own = sorted(fields - inherited - hashes)
    loaded = 0
    for name in own:
        for value in others(saved[name], types[name]):
            (tmp_path / "adapter_config.json").write_text(json.dumps(saved | {name: value}))
            try:
                found = load(tmp_path, llama).eval()(input_ids).logits
            except (ValueError, AttributeError, TypeError, KeyError):  # PEFT's own, too
                continue
            loaded += 1
            # How an update is applied may change how it is rounded.
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6, msg=f"{name} {value}")
    # Dropout, for one, is of no effect here.
    assert loaded > 0


@pytest.mark.parametrize("trainable", [False, True])
def test_changed_seed_with_the_hash_removed_is_refused(trainable, llama: Callable, tmp_path):
    save(tmp_path, llama, "tera")
    edit(tmp_path, seed=4, frozen_sha256=None)
    with pytest.raises(ValueError, match=r"^frozen_sha256: .* seed 4"):
        peft.PeftModel.from_pretrained(llama(), tmp_path, is_trainable=trainable)
    model = peft.get_peft_model(llama(), TeraConfig(**SAVED))
    with pytest.raises(ValueError, match=r"^frozen_sha256: .* seed 4"):
        model.load_adapter(tmp_path, "second")


@pytest.mark.parametrize("method", CONFIGS)
def test_training_further_and_earlier_states_are_no_damage(method, llama: Callable, tmp_path):
    save(tmp_path, llama, method)
    model = peft.PeftModel.from_pretrained(llama(), tmp_path, is_trainable=True)
    before = {k: v.clone() for k, v in peft.get_peft_model_state_dict(model).items()}
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.5)
    model.save_pretrained(tmp_path / "later")
    load(tmp_path / "later", llama)
    # As transformers' Trainer goes back to its best checkpoint.
    model.load_adapter(tmp_path, "default")
    peft.set_peft_model_state_dict(model, before)
    found = peft.get_peft_model_state_dict(model)
    assert all(torch.equal(found[name], value) for name, value in before.items())
