"""User errors are one clear line that names the module or the setting."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from torch import nn

from tera_pl.adapters import TeraConfig, check_targets

QV = ["q_proj", "v_proj"]


def message_of(error: pytest.ExceptionInfo) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"core_init": "gaussian"}, ["core_init", "gaussian", "normal, uniform"]),
        ({"core_init": "identity"}, ["core_init", "identity"]),
        ({"factor_init": "eye"}, ["factor_init", "eye", "identity"]),
        ({"compute": "fast"}, ["compute", "fast", "factored"]),
        ({"dropout": 1.0}, ["dropout", "1.0"]),
        ({"zero_vector": "shortest"}, ["zero_vector", "shortest", "longest"]),
        ({"out_modes": 0}, ["out_modes", "0"]),
        ({"in_modes": []}, ["in_modes", "[]"]),
        ({"out_modes": [4.0, 6]}, ["out_modes", "4.0"]),
        ({"modes_pattern": {"v_proj": {"modes": 2}}}, ["modes_pattern['v_proj']", "in_modes"]),
        ({"modes_pattern": {"v_proj": {"in_modes": -1}}}, ["modes_pattern['v_proj'].in_modes"]),
        ({"modes_pattern": {"v_proj": 2}}, ["modes_pattern['v_proj']", "expected"]),
        ({"modes_pattern": {"(v": {}}}, ["modes_pattern['(v']", "regular expression"]),
        ({"target_modules": "q", "layers_to_transform": [0]}, ["layers_to_transform", "pattern"]),
        ({"layers_pattern": "layers"}, ["layers_pattern", "layers_to_transform"]),
    ],
    ids=str,
)
def test_config(settings: dict, words: list[str]) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        TeraConfig(**settings)
    assert all(word in message_of(error) for word in words)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"out_modes": 7}, ["layers.0.self_attn.q_proj", "24", "7 modes"]),
        ({"out_modes": [5, 5]}, ["layers.0.self_attn.q_proj", "[5, 5]", "24"]),
        ({"modes_pattern": {"v_proj": {"out_modes": 4}}}, ["layers.0.self_attn.v_proj", "12"]),
        ({"ranks": [4, 6, 25]}, ["q_proj", "rank 25", "24"]),
        ({"ranks": [0, 6, 24]}, ["q_proj", "rank 0"]),
        ({"ranks": [4, 6]}, ["q_proj", "expected 3"]),
        ({"zero_vector": 3}, ["q_proj", "zero_vector is 3", "0 to 2"]),
        ({"modes_pattern": {"k_proj": {"out_modes": 1}}}, ["modes_pattern", "k_proj", "v_proj"]),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_the_model(
    llama: Callable, settings: dict, words: list[str]
) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        get_peft_model(llama(), TeraConfig(target_modules=QV, **settings))
    assert all(word in message_of(error) for word in words)


def test_a_prime_size() -> None:
    net = nn.ModuleDict({"first": nn.Linear(8, 6), "prime": nn.Linear(8, 13)})
    with pytest.raises(ValueError, match="module prime: cannot split size 13 into 2 modes"):
        get_peft_model(net, TeraConfig(target_modules=["first", "prime"], out_modes=2))
    unsplit = TeraConfig(target_modules=["prime"], out_modes=1)
    get_peft_model(nn.ModuleDict({"prime": nn.Linear(8, 13)}), unsplit)


def test_a_module_that_is_not_linear(llama: Callable) -> None:
    with pytest.raises(ValueError, match=r"module model\.embed_tokens is a Embedding"):
        get_peft_model(llama(), TeraConfig(target_modules=["embed_tokens"]))


@pytest.mark.parametrize("config", [TeraConfig, LoraConfig])
@pytest.mark.parametrize(
    ("targets", "hint"),
    [
        (["q_proj", "v_porj"], "did you mean v_proj"),
        (["self_attn.qproj"], "did you mean q_proj"),
        ("v_pro", "did you mean v_proj"),
        (["zzz"], "there are"),
        ("(q_proj", "regular expression"),
    ],
    ids=str,
)
def test_unknown_targets(llama: Callable, config: type, targets: object, hint: str) -> None:
    with torch.device("meta"):
        model = llama()
    with pytest.raises(ValueError, match="target_modules") as error:
        check_targets(model, config(target_modules=targets))
    assert hint in message_of(error)


@pytest.mark.parametrize(
    "config",
    [
        TeraConfig(target_modules=QV),
        TeraConfig(target_modules=["self_attn.q_proj"]),
        TeraConfig(target_modules=r".*\.(q|v)_proj"),
        LoraConfig(target_modules="all-linear"),
        LoraConfig(),
        PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"),
    ],
    ids=["list", "path", "regular expression", "all linear", "default", "no targets"],
)
def test_known_targets(llama: Callable, config: object) -> None:
    check_targets(llama(), config)


def test_default_splits_only_what_can_be_split(tmp_path: Path) -> None:
    sizes = {"even": 8, "two": 2, "prime": 13}

    def adapt(targets: Sequence[str], **settings: object) -> PeftModel:
        torch.manual_seed(0)
        net = nn.ModuleDict({name: nn.Linear(6, size) for name, size in sizes.items()})
        return get_peft_model(net, TeraConfig(target_modules=list(targets), **settings))

    with pytest.warns(
        UserWarning, match=r"not split the output dimension of 2 modules.*: two \(2\), \.\.\."
    ) as seen:
        model = adapt(sizes)
    assert len(seen) == 1
    # 8 is 2 x 4; every input is one mode.
    assert model.get_nb_trainable_parameters()[0] == (2 + 4 + 6) + (2 + 6) + (13 + 6)
    unsplit = {"out_modes": 1}
    explicit = adapt(sizes, out_modes=2, modes_pattern={"two": unsplit, "prime": unsplit})
    found, expected = (m.peft_config["default"].frozen_sha256 for m in (model, explicit))
    assert found == expected
    model.save_pretrained(tmp_path)
    again = TeraConfig.from_pretrained(tmp_path)
    assert again.out_modes is None
    with pytest.warns(UserWarning, match="two"):
        get_peft_model(nn.ModuleDict({n: nn.Linear(6, s) for n, s in sizes.items()}), again)
    # Where all can be split, the default is the number that it was, in files too.
    assert adapt(["even"]).peft_config["default"].to_dict()["out_modes"] == 2
    with pytest.raises(ValueError, match="module two: cannot split size 2 into 2 modes"):
        adapt(sizes, out_modes=2)
