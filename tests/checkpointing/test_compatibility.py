"""A checkpoint is refused by name of what differs."""

import copy
import functools

import pytest
import torch

from tera_pl.checkpointing.compatibility import change_optimizer, check_checkpoint
from tera_pl.checkpointing.run_spec import describe_optimizer

SPEC = {
    "adapter": {"seed": 0, "target_modules": ["q_proj", "v_proj"]},
    "backbone": {
        "path": "base",
        "dtype": "float32",
        "config": {"hidden_size": 8, "rope": {"theta": 1e4}},
        "frozen_weights_sha256": "aa",
    },
    "tokenizer": {"size": 9, "sha256": "cc"},
    "data": {"encoding": {"template": "{instruction}"}, "split": {"seed": 42}},
    "training": {"seed": 1, "max_steps": 8},
    "optimizer": {"class": "AdamW", "lr": 0.1},
    "schedule": {"name": "linear", "warmup_steps": 100},
}
PARAMETERS = {"model.a": torch.zeros(2), "model.b": torch.zeros(3)}


def checkpoint(**changes):
    return {"tera_pl": SPEC, "state_dict": dict(PARAMETERS), **changes}


def test_equal_settings_pass():
    check_checkpoint(checkpoint(), SPEC, PARAMETERS, resuming=True)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("adapter", "seed", 3),
        ("backbone", "frozen_weights_sha256", "bb"),
        ("optimizer", "lr", 0.2),
        ("schedule", "warmup_steps", 5),
        ("tokenizer", "sha256", "dd"),
        ("training", "seed", 2),
        ("training", "max_steps", 16),
    ],
)
def test_difference_names_key_and_both_values(section, key, value):
    spec = SPEC | {section: SPEC[section] | {key: value}}
    with pytest.raises(
        ValueError, match=rf"{section}.{key} is .* in the checkpoint and .* in this run"
    ) as error:
        check_checkpoint(checkpoint(), spec, PARAMETERS, resuming=True)
    assert repr(value) in str(error.value)
    assert repr(SPEC[section][key]) in str(error.value)


def test_optimizer_matters_only_when_training_resumes():
    spec = SPEC | {"optimizer": {"class": "SGD", "lr": 9.0}}
    check_checkpoint(checkpoint(), spec, PARAMETERS, resuming=False)


def test_another_method_is_refused():
    spec = SPEC | {"adapter": None}
    with pytest.raises(ValueError, match="adapter"):
        check_checkpoint(checkpoint(), spec, PARAMETERS, resuming=False)


def test_foreign_checkpoint_is_refused():
    with pytest.raises(ValueError, match="carries no description"):
        check_checkpoint({"state_dict": {}}, SPEC, PARAMETERS, resuming=False)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"model.a": torch.zeros(2)}, "1 trained tensors are missing"),
        ({}, "2 trained tensors are missing"),
        (PARAMETERS | {"c": torch.zeros(1)}, "1 are unknown"),
        ({"model.a": torch.zeros(2), "model.b": torch.zeros(4)}, "1 have another shape"),
    ],
)
def test_tensors_must_match_exactly(state, message):
    with pytest.raises(ValueError, match=message):
        check_checkpoint(checkpoint(state_dict=state), SPEC, PARAMETERS, resuming=False)


def with_changes(**changes):
    """The settings of this run, with some by dotted name changed."""
    spec = copy.deepcopy(SPEC)
    for name, value in changes.items():
        *path, last = name.split("__")
        section = functools.reduce(dict.__getitem__, path, spec)
        section[last] = value
    return spec


@pytest.mark.parametrize("resuming", [True, False])
@pytest.mark.parametrize(
    "name", ["data__encoding__template", "data__split__seed", "backbone__config__rope__theta"]
)
def test_nested_settings_are_compared_in_every_stage(name, resuming):
    with pytest.raises(ValueError, match=f"{name.replace('__', '.')} is .* and 'other' in this"):
        check_checkpoint(
            checkpoint(), with_changes(**{name: "other"}), PARAMETERS, resuming=resuming
        )


def test_base_may_move_and_is_named_when_it_differs():
    spec = with_changes(backbone__path="elsewhere")
    assert check_checkpoint(checkpoint(), spec, PARAMETERS, resuming=True) == []
    spec["backbone"]["frozen_weights_sha256"] = "bb"
    with pytest.raises(ValueError, match=r"also: backbone.path is 'base' .* 'elsewhere'"):
        check_checkpoint(checkpoint(), spec, PARAMETERS, resuming=True)


def test_what_is_allowed_by_name_may_differ_and_nothing_else():
    spec = with_changes(data__encoding__template="other", training__max_steps=16)
    names = ["data.encoding.template", "training.max_steps"]
    check = functools.partial(check_checkpoint, checkpoint(), spec, PARAMETERS, resuming=True)
    assert check(allow_changed=names) == names
    with pytest.raises(ValueError, match=r"training.max_steps is 8 .* 16") as error:
        check(allow_changed=names[:1])
    assert "data.encoding" not in str(error.value)
    # Allowed by exact name: not by a section, not by a beginning.
    with pytest.raises(ValueError, match="there is no setting 'data'"):
        check(allow_changed=["data", *names])


def test_unknown_allowed_name_is_refused_with_the_nearest_one():
    with pytest.raises(ValueError, match=r"'training.max_step' .* like 'training.max_steps'"):
        check_checkpoint(
            checkpoint(), SPEC, PARAMETERS, resuming=True, allow_changed=["training.max_step"]
        )


def test_allowed_setting_that_is_equal_is_no_error():
    # A run that was resumed with other settings resumes again from its own checkpoint.
    allowed = ["training.max_steps", "adapter.seed"]
    arguments = (checkpoint(), SPEC, PARAMETERS)
    assert check_checkpoint(*arguments, resuming=False, allow_changed=allowed) == []


def test_class_of_the_optimizer_cannot_change():
    spec = SPEC | {"optimizer": {"class": "SGD", "lr": 0.1}}
    with pytest.raises(ValueError, match=r"optimizer.class cannot be changed"):
        check_checkpoint(
            checkpoint(), spec, PARAMETERS, resuming=True, allow_changed=["optimizer.class"]
        )


@pytest.mark.parametrize("section", ["tokenizer", "data", "training"])
def test_checkpoint_of_an_older_version_is_refused_by_the_missing_section(section):
    older = {key: value for key, value in SPEC.items() if key != section}
    with pytest.raises(ValueError, match=f"has no section {section}"):
        check_checkpoint(checkpoint(tera_pl=older), SPEC, PARAMETERS, resuming=True)


def test_changed_settings_of_the_optimizer_win_over_its_saved_state():
    parameter = torch.nn.Parameter(torch.ones(1))

    def build(lr, betas):
        optimizer = torch.optim.AdamW([parameter], lr=lr, betas=betas)
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))

    optimizer, scheduler = build(0.5, (0.9, 0.999))
    optimizer.step()
    scheduler.step()
    saved = {
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [scheduler.state_dict()],
    }
    change_optimizer(saved, {"lr": 0.1, "betas": [0.8, 0.9]})
    optimizer, scheduler = build(0.1, (0.8, 0.9))
    optimizer.load_state_dict(saved["optimizer_states"][0])
    scheduler.load_state_dict(saved["lr_schedulers"][0])
    (group,) = optimizer.param_groups
    assert group["betas"] == (0.8, 0.9)
    assert group["lr"] == pytest.approx(0.1 / 2)
    optimizer.step()
    scheduler.step()
    assert group["lr"] == pytest.approx(0.1 / 3)


def test_optimizer_is_described_by_class_and_settings():
    optimizer = functools.partial(torch.optim.AdamW, lr=0.5, weight_decay=0.0)
    described = describe_optimizer(optimizer)
    assert described["class"] == "AdamW"
    assert described["lr"] == 0.5
    assert described["weight_decay"] == 0.0
    assert described["betas"] == [0.9, 0.999]
