"""Save and load TeRA: only trainable parameters in the file, frozen tensors verified by hash."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from tera_pl.adapters import TeraConfig, frozen_model
from tera_pl.tensor import FrozenKey
from tera_pl.tensor.frozen import SCHEME

QV = ["q_proj", "v_proj"]


def train(model: PeftModel, input_ids: torch.Tensor) -> None:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.05, weight_decay=0.0)
    for _ in range(4):
        model(input_ids, labels=input_ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("save_frozen", [False, True])
def test_trained_adapter_reloads_to_the_same_bits(
    llama: Callable, input_ids: torch.Tensor, dtype: torch.dtype, save_frozen: bool, tmp_path
) -> None:
    config = TeraConfig(target_modules=QV, seed=5, save_frozen=save_frozen)
    model = get_peft_model(llama(dtype), config)
    fresh = model(input_ids).logits
    train(model, input_ids)
    expected = model(input_ids).logits
    assert not torch.equal(expected, fresh)
    model.save_pretrained(tmp_path)
    base = llama(dtype)
    torch.manual_seed(999)
    loaded = PeftModel.from_pretrained(base, tmp_path, is_trainable=True)
    assert torch.equal(loaded(input_ids).logits, expected)
    train(model, input_ids)
    train(loaded, input_ids)
    assert torch.equal(loaded(input_ids).logits, model(input_ids).logits)


def test_config_survives_the_file(llama: Callable, tmp_path) -> None:
    config = TeraConfig(
        target_modules=QV,
        modes_pattern={"v_proj": {"out_modes": [3, 4], "ranks": [2, 3, 20]}},
        zero_vector=1,
        layers_to_transform=[0, 2],
        factor_init="identity",
    )
    get_peft_model(llama(), config).save_pretrained(tmp_path)
    loaded = PeftConfig.from_pretrained(tmp_path)
    assert loaded.peft_type == "TERA"
    for name in ("modes_pattern", "zero_vector", "layers_to_transform", "factor_init"):
        assert getattr(loaded, name) == getattr(config, name)
    assert len(loaded.frozen_sha256) == 64


def test_config_object_serves_a_second_model(llama: Callable) -> None:
    config = TeraConfig(target_modules=["q_proj"])
    get_peft_model(llama(), config)
    first = config.frozen_sha256
    config.target_modules = {"v_proj"}
    get_peft_model(llama(), config)
    assert config.frozen_sha256 != first


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"core_init": "uniform"}, {"in_modes": 2}], ids=str
)
def test_other_frozen_tensors_are_refused(llama: Callable, change: dict, tmp_path) -> None:
    config = TeraConfig(target_modules=QV)
    get_peft_model(llama(), config).save_pretrained(tmp_path)
    edit_config(tmp_path, **change)
    with pytest.raises(ValueError, match=r"frozen_sha256.*restore the settings") as caught:
        PeftModel.from_pretrained(llama(), tmp_path)
    assert "\n" not in str(caught.value)


def test_without_save_frozen_the_file_holds_vectors_only(llama: Callable, tmp_path) -> None:
    model = get_peft_model(llama(), TeraConfig(target_modules=QV))
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert sum(t.numel() for t in saved.values()) == model.get_nb_trainable_parameters()[0]
    assert all(tensor.dtype == torch.float32 for tensor in saved.values())
    assert not any("frozen" in name for name in model.state_dict())


def test_save_frozen_writes_each_tensor_once(llama: Callable, tmp_path) -> None:
    model = get_peft_model(llama(torch.bfloat16), TeraConfig(target_modules=QV, save_frozen=True))
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    frozen = {name: tensor for name, tensor in saved.items() if "tera_frozen" in name}
    assert len(frozen) == 7
    assert all(tensor.dtype == torch.float32 for tensor in frozen.values())


def test_saved_frozen_tensors_are_used_where_drawing_gives_others(
    llama: Callable, input_ids: torch.Tensor, perturb: Callable, monkeypatch, tmp_path
) -> None:
    model = get_peft_model(llama(), TeraConfig(target_modules=QV, save_frozen=True))
    perturb(model)
    expected = model(input_ids).logits
    model.save_pretrained(tmp_path / "first")

    def draw_otherwise(key: FrozenKey) -> torch.Tensor:
        return torch.zeros(key.shape)

    monkeypatch.setattr("tera_pl.tensor.frozen.draw", draw_otherwise)
    monkeypatch.setattr(frozen_model, "draw", draw_otherwise)
    loaded = PeftModel.from_pretrained(llama(), tmp_path / "first")
    assert torch.equal(loaded(input_ids).logits, expected)
    # They can be saved again, unless they are rounded in memory.
    loaded.save_pretrained(tmp_path / "second")
    again = PeftModel.from_pretrained(llama(), tmp_path / "second")
    assert torch.equal(again(input_ids).logits, expected)
    rounded = PeftModel.from_pretrained(llama(torch.bfloat16), tmp_path / "first")
    with pytest.raises(ValueError, match="load the adapter on a float32 base"):
        rounded.save_pretrained(tmp_path / "third")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda name, value: {name: value + 1}, "is damaged or belongs to another adapter"),
        (lambda name, value: {}, "lacks 1 frozen tensors"),
    ],
    ids=["changed", "missing"],
)
def test_damaged_frozen_tensors_are_refused(
    llama: Callable, damage: Callable, message: str, tmp_path
) -> None:
    config = TeraConfig(target_modules=QV, save_frozen=True)
    get_peft_model(llama(), config).save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    saved = load_file(path)
    name = next(name for name in saved if f"tera/{SCHEME}" in name)
    save_file(saved | damage(name, saved.pop(name)), path)
    with pytest.raises(ValueError, match=message):
        PeftModel.from_pretrained(llama(), tmp_path)
