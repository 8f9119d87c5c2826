"""A checkpoint is refused by name of what differs."""

import functools

import pytest
import torch

from tera_pl.tasks.checkpoint import check_checkpoint, describe_optimizer

SPEC = {
    "adapter": {"seed": 0, "target_modules": ["q_proj", "v_proj"]},
    "backbone": {"dtype": "float32", "frozen_weights_sha256": "aa"},
    "optimizer": {"class": "AdamW", "lr": 0.1},
    "schedule": {"name": "linear", "warmup_steps": 100},
}
SHAPES = {"model.a": (2,), "model.b": (3,)}


def checkpoint(**changes):
    state = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    return {"tera_pl": SPEC, "state_dict": state, **changes}


def test_equal_settings_pass():
    check_checkpoint(checkpoint(), SPEC, SHAPES, resuming=True)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("adapter", "seed", 3),
        ("backbone", "frozen_weights_sha256", "bb"),
        ("optimizer", "lr", 0.2),
        ("schedule", "warmup_steps", 5),
    ],
)
def test_difference_names_key_and_both_values(section, key, value):
    spec = SPEC | {section: SPEC[section] | {key: value}}
    with pytest.raises(
        ValueError, match=rf"{section}.{key} is .* in the checkpoint and .* in this run"
    ) as error:
        check_checkpoint(checkpoint(), spec, SHAPES, resuming=True)
    assert repr(value) in str(error.value)
    assert repr(SPEC[section][key]) in str(error.value)


def test_optimizer_matters_only_when_training_goes_on():
    spec = SPEC | {"optimizer": {"class": "SGD", "lr": 9.0}}
    check_checkpoint(checkpoint(), spec, SHAPES, resuming=False)


def test_another_method_is_refused():
    spec = SPEC | {"adapter": None}
    with pytest.raises(ValueError, match="adapter"):
        check_checkpoint(checkpoint(), spec, SHAPES, resuming=False)


def test_foreign_checkpoint_is_refused():
    with pytest.raises(ValueError, match="carries no description"):
        check_checkpoint({"state_dict": {}}, SPEC, SHAPES, resuming=False)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"model.a": torch.zeros(2)}, "1 trained tensors are missing"),
        ({}, "2 trained tensors are missing"),
        ({n: torch.zeros(s) for n, s in SHAPES.items()} | {"c": torch.zeros(1)}, "1 are unknown"),
        ({"model.a": torch.zeros(2), "model.b": torch.zeros(4)}, "1 have another shape"),
    ],
)
def test_tensors_must_match_exactly(state, message):
    with pytest.raises(ValueError, match=message):
        check_checkpoint(checkpoint(state_dict=state), SPEC, SHAPES, resuming=False)


def test_optimizer_is_described_by_class_and_settings():
    optimizer = functools.partial(torch.optim.AdamW, lr=0.5, weight_decay=0.0)
    described = describe_optimizer(optimizer)
    assert described["class"] == "AdamW"
    assert described["lr"] == 0.5
    assert described["weight_decay"] == 0.0
