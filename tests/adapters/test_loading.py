"""An adapter's file is loaded as it was saved, or not at all: in plain peft, for every method."""

import json
import re
from collections.abc import Callable

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from tera_pl.adapters import LorettaConfig, LotrConfig, MoraConfig, TeraConfig

SAVED = {"target_modules": ["q_proj", "v_proj"], "modules_to_save": ["lm_head"]}
CONFIGS = {
    "tera": lambda: TeraConfig(**SAVED, seed=3),
    "tera_with_frozen": lambda: TeraConfig(**SAVED, save_frozen=True),
    "loretta": lambda: LorettaConfig(**SAVED, r=4, tensor_rank=2),
    "mora": lambda: MoraConfig(**SAVED, r=2),
    "lotr": lambda: LotrConfig(**SAVED, r=3),
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
        told = str(error.value)
        assert "\n" not in told
        if "weights_sha256" not in message:
            # In the model, names have that of the adapter in them.
            assert ("more" if case == "unknown" else name) in told.replace(".default", ""), case


def edit(folder, **changes):
    path = folder / "adapter_config.json"
    config = {k: v for k, v in (json.loads(path.read_text()) | changes).items() if v != "absent"}
    path.write_text(json.dumps(config))


@pytest.mark.parametrize("absent", [None, "absent"])
@pytest.mark.parametrize(
    ("method", "field"),
    [("tera", "frozen_sha256"), ("tera", "weights_sha256"), ("lotr", "weights_sha256")],
)
def test_adapter_without_its_hash_is_refused_and_accepted_deliberately(
    method, field, absent, llama: Callable, tmp_path
):
    save(tmp_path, llama, method)
    edit(tmp_path, **{field: absent})
    with pytest.raises(ValueError, match=rf"^{field}: .* accept it by writing") as error:
        load(tmp_path, llama)
    (written,) = re.findall(r'"(\w+)": "(\w+)"', str(error.value))
    edit(tmp_path, **dict([written]))
    load(tmp_path, llama)


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
