"""A base model is loaded as it was saved or not at all, and identified by all of its weights."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tera_pl.errors import UserError
from tera_pl.models.backbone import Backbone, load_model
from tera_pl.models.fingerprint import fingerprint_frozen

NAME = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def base(tiny_backbone, tmp_path):
    return shutil.copytree(tiny_backbone, tmp_path / "base")


def load(folder):
    return load_model(Backbone(str(folder), dtype="float32"))


def without(state, name):
    return {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: without(state, NAME), rf"no {NAME} \(1 in all\)"),
        (lambda state: without(state, "lm_head.weight"), r"no lm_head\.weight \(1 in all\)"),
        (
            lambda state: state | {NAME: torch.zeros(5, 5)},
            rf"{NAME} of shape \(5, 5\) instead of \(32, 24\)",
        ),
    ],
    ids=["missing", "head", "shape"],
)
def test_weights_that_would_be_drawn_are_an_error(change, message, base, capfd):
    path = base / "model.safetensors"
    save_file(change(load_file(path)), path, {"format": "pt"})
    with pytest.raises(ValueError, match=message) as error:
        load(base)
    assert str(base) in str(error.value)
    # transformers' own table of what it has drawn would say the opposite of the error.
    assert "LOAD REPORT" not in capfd.readouterr().err


def with_value(tensor, value):
    tensor = tensor.clone()
    tensor.view(-1)[-3] = value
    return tensor


@pytest.mark.parametrize(
    ("change", "dtype", "message"),
    [
        (torch.Tensor.int, "float32", rf"{NAME} is stored as I32 instead of floating point \(1 in"),
        (torch.Tensor.bool, "float32", rf"{NAME} is stored as BOOL instead of floating"),
        (
            lambda t: with_value(t, torch.nan),
            "float32",
            f"{NAME} has .* infinite in float32",
        ),
        (lambda t: with_value(t, -torch.inf), "bfloat16", f"{NAME} has .* infinite in bfloat16"),
        # Finite in the file, and not in the type that was asked for.
        (lambda t: with_value(t, 1e5), "float16", f"{NAME} has .* infinite in float16"),
    ],
    ids=["integer", "bool", "nan", "infinite", "overflow"],
)
@pytest.mark.parametrize("shards", [False, True])
def test_weights_that_are_no_finite_floating_point_are_an_error(
    change, dtype, message, shards, base
):
    path = base / "model.safetensors"
    state = load_file(path)
    save_file(state | {NAME: change(state[NAME])}, path, {"format": "pt"})
    if shards:
        path.rename(base / "one.safetensors")
        index = {"metadata": {}, "weight_map": dict.fromkeys(state, "one.safetensors")}
        (base / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=f"the weights at .* are damaged: {message}"):
        load_model(Backbone(str(base), dtype=dtype))


def test_weights_saved_without_the_head_are_known_by_their_shorter_names(base):
    path = base / "model.safetensors"
    state = {name.removeprefix("model."): value for name, value in load_file(path).items()}
    save_file(state, path, {"format": "pt"})
    load(base)
    short = NAME.removeprefix("model.")
    save_file(state | {short: state[short].long()}, path, {"format": "pt"})
    with pytest.raises(UserError, match=f"{short} is stored as I64"):
        load(base)


@pytest.mark.parametrize("kept", [0, 7, 200, -100])
def test_truncated_weights_are_an_error(kept, base):
    path = base / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"has no readable weights \(.*header") as error:
        load(base)
    assert "\n" not in str(error.value)


def test_weights_that_are_not_used_are_reported(base):
    path = base / "model.safetensors"
    save_file(load_file(path) | {"model.more": torch.zeros(1)}, path, {"format": "pt"})
    with pytest.warns(UserWarning, match=r"1 tensors at .* are not used .*: model\.more"):
        load(base)


def test_tied_weights_are_saved_once_and_not_missing(base):
    model = AutoModelForCausalLM.from_pretrained(base)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(base)
    assert "lm_head.weight" not in load_file(base / "model.safetensors")
    loaded = load(base)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("executed",))


def test_pickle_of_weights_is_not_executed_and_its_error_advises_nothing(base, monkeypatch):
    monkeypatch.chdir(base)
    (base / "model.safetensors").unlink()
    torch.save({NAME: Bomb()}, base / "pytorch_model.bin")
    with pytest.raises(ValueError, match="which is not executed") as error:
        load(base)
    assert "weights_only" not in str(error.value)
    assert not (base / "executed").exists()


def test_fingerprint_is_of_every_value_and_not_of_files(base):
    model = load(base).requires_grad_(False)
    before = fingerprint_frozen(model)
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(base, max_shard_size="8KB")
    assert len(list(base.glob("model-*.safetensors"))) > 2
    (base / "model.safetensors").unlink()
    assert fingerprint_frozen(load(base).requires_grad_(False)) == before
    weight = model.get_parameter(NAME).data
    seen = {before}
    for index in range(0, weight.numel(), 97):
        value = weight.view(-1)[index].item()
        weight.view(-1)[index] = torch.nextafter(weight.view(-1)[index], torch.tensor(9.0))
        seen.add(fingerprint_frozen(model))
        weight.view(-1)[index] = value
    assert len(seen) == 1 + len(range(0, weight.numel(), 97))
    assert fingerprint_frozen(model) == before
    # Trainable weights are excluded.
    model.get_parameter(NAME).requires_grad_(True)
    weight.add_(1)
    changed = fingerprint_frozen(model)
    weight.add_(1)
    assert fingerprint_frozen(model) == changed
