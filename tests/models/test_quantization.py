"""Quantized bases by bitsandbytes on a CPU: the same training as on the weights they stand for."""

import copy
import logging

import peft
import pytest
import torch
import yaml
from peft.utils.quantization_utils import resolve_quantization_backend
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from tera_pl import extras
from tera_pl.adapters import LorettaConfig, TeraConfig
from tera_pl.adapters.quantized import is_quantized, quantized_layers
from tera_pl.analysis import count
from tera_pl.errors import UserError
from tera_pl.models.backbone import (
    Backbone,
    add_adapter,
    load_meta_model,
    load_model,
    prepare_training,
)
from tera_pl.models.fingerprint import fingerprint_frozen
from tera_pl.models.quantization import dequantize
from tera_pl.tensor.checksums import digest_tensor
from tests.conftest import ROOT

bnb = pytest.importorskip("bitsandbytes")
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
SETTINGS = {
    "nf4": NF4,
    "fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    # The integers are stored as bfloat16 numbers, which they are not.
    "bfloat16_storage": NF4 | {"bnb_4bit_quant_storage": "bfloat16"},
    "int8": {"load_in_8bit": True},
}
TARGETS = ["q_proj", "v_proj"]
ADAPTERS = {
    "tera": TeraConfig(target_modules=TARGETS, init_weights=False),
    "loretta": LorettaConfig(target_modules=TARGETS, r=4, tensor_rank=2, init_weights=False),
    "lora": peft.LoraConfig(target_modules=TARGETS, r=4, init_lora_weights=False),
}


def quantized(folder, name, **settings):
    config = BitsAndBytesConfig(**SETTINGS[name])
    return Backbone(str(folder), **({"dtype": "float32", "quantization": config} | settings))


def adapt(model, name):
    torch.manual_seed(1)
    return add_adapter(model, copy.deepcopy(ADAPTERS[name])).train()


def loss_and_gradients(model):
    """The loss, and every gradient with its name."""
    ids = torch.randint(4, 40, (2, 9), generator=torch.Generator().manual_seed(0))
    model.zero_grad()
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    trained = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
    return trained | {"loss": loss.detach()}


def assert_same(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, **tolerance)


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("name", SETTINGS)
def test_gradients_are_those_of_the_dequantized_model(name, adapter, tiny_backbone):
    backbone = quantized(tiny_backbone, name)
    model = adapt(load_model(backbone), adapter)
    assert len(quantized_layers(model)) == 14
    found = loss_and_gradients(model)
    # transformers' own conversion to floating point; the adapter is that of a plain model.
    plain = adapt(load_model(backbone).dequantize(torch.float32), adapter)
    assert not quantized_layers(plain)
    assert_same(found, loss_and_gradients(plain), rtol=1e-4, atol=1e-7)
    assert all(found[key].any() for key in found)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}


@pytest.mark.parametrize("name", SETTINGS)
def test_validation_does_not_change_training(name, tiny_backbone):
    """Where there is AVX512_BF16, bitsandbytes converts 4-bit weights at the first inference."""
    model = adapt(load_model(quantized(tiny_backbone, name)), "tera")
    before = loss_and_gradients(model)
    weights = {name: digest_tensor(p) for name, p in model.named_parameters()}
    with torch.no_grad():
        model.eval()(input_ids=torch.arange(8)[None])
    assert_same(loss_and_gradients(model.train()), before, rtol=0, atol=0)
    assert weights == {name: digest_tensor(p) for name, p in model.named_parameters()}
    layers = quantized_layers(model).values()
    assert not any(getattr(layer, "support_avx512bf16_for_cpu", False) for layer in layers)


@pytest.mark.parametrize("name", ["nf4", "int8"])
def test_gradient_checkpointing_gives_the_same_bits(name, tiny_backbone):
    backbone = quantized(tiny_backbone, name, gradient_checkpointing=True)
    plain = adapt(load_model(backbone), "tera")
    expected = loss_and_gradients(plain)
    model = prepare_training(adapt(load_model(backbone), "tera"), backbone)
    calls = []
    layer = model.get_base_model().model.layers[0].self_attn.q_proj
    layer.register_forward_hook(lambda *_: calls.append(0))
    assert_same(loss_and_gradients(model), expected, rtol=0, atol=0)
    assert len(calls) == 2


def test_float32_is_what_pefts_preparation_makes(tiny_backbone, tmp_path):
    """Norms, embeddings and head in float32, with a base whose files are in bfloat16."""
    AutoModelForCausalLM.from_pretrained(tiny_backbone, dtype=torch.bfloat16).save_pretrained(
        tmp_path
    )
    model = adapt(load_model(quantized(tmp_path, "int8")), "lora")
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path,
        dtype=torch.bfloat16,
        quantization_config=BitsAndBytesConfig(**SETTINGS["int8"]),
        device_map={"": "cpu"},
    )
    theirs = peft.prepare_model_for_kbit_training(theirs, use_gradient_checkpointing=False)
    assert_same(loss_and_gradients(model), loss_and_gradients(adapt(theirs, "lora")))
    assert [p.dtype for p in model.parameters()] == [p.dtype for p in theirs.parameters()]


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_compute_dtype_is_that_of_the_products(compute, tiny_backbone):
    settings = NF4 | {"bnb_4bit_compute_dtype": compute}
    backbone = Backbone(str(tiny_backbone), quantization=BitsAndBytesConfig(**settings))
    layer = load_model(backbone).model.layers[0].mlp.up_proj
    x = torch.randn(3, 24)
    dtype, state = getattr(torch, compute), copy.copy(layer.weight.quant_state)
    assert state.dtype == torch.bfloat16  # of the weights before they were quantized
    state.dtype = dtype
    weight = bnb.functional.dequantize_4bit(layer.weight.data, state)
    expected = F.linear(x.to(dtype), weight).float()
    tolerance = 1e-2 if compute == "bfloat16" else 1e-5
    torch.testing.assert_close(layer(x), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", [*SETTINGS, "bfloat16_products"])
def test_shapes_alone_give_the_counts_of_the_loaded_model(name, tiny_backbone, monkeypatch):
    products = NF4 | {"bnb_4bit_compute_dtype": "bfloat16"}
    monkeypatch.setitem(SETTINGS, "bfloat16_products", products)
    backbone = quantized(tiny_backbone, name, dtype="bfloat16")
    found = count(adapt(load_meta_model(backbone), "tera"))
    loaded = adapt(load_model(backbone), "tera")
    assert found == count(loaded)
    plain = count(adapt(load_meta_model(Backbone(str(tiny_backbone))), "tera"))
    assert found.base == plain.base
    # One copy of every core and factor, as without quantization.
    assert found.frozen_adapter == plain.frozen_adapter
    assert found.trained_percent == plain.trained_percent
    # What the state dict of bitsandbytes holds, less its packed description of each layer.
    layers = quantized_layers(loaded)
    rest = [p for n, p in loaded.named_parameters() if n.removesuffix(".weight") not in layers]
    rest = sum(p.nbytes for p in rest if not p.requires_grad)
    stored = 0
    for layer in layers.values():
        for key, tensor in layer.state_dict().items():
            stored += tensor.nbytes if "bitsandbytes" not in key and key != "weight_format" else 0
        nested = getattr(getattr(layer.weight, "quant_state", None), "nested", False)
        stored += 4 if nested else 0  # the offset is in the description
    assert found.base_bytes == rest + stored


def test_the_fingerprint_is_that_of_the_weights_before_quantization(tiny_backbone, tmp_path):
    backbone = quantized(tiny_backbone, "nf4")
    found = fingerprint_frozen(adapt(load_model(backbone), "tera"))
    assert found == fingerprint_frozen(adapt(load_model(backbone), "tera"))
    other = quantized(tiny_backbone, "int8")
    assert found == fingerprint_frozen(adapt(load_model(other), "tera"))
    # Twice the weights have the same integers, and other scales.
    model = AutoModelForCausalLM.from_pretrained(tiny_backbone, dtype=torch.float32)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(2)
    model.save_pretrained(tmp_path)
    changed = adapt(load_model(quantized(tmp_path, "nf4")), "tera")
    assert found != fingerprint_frozen(changed)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_damaged_weights_are_found_behind_their_integers(name, value, tiny_backbone, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(tiny_backbone, dtype=torch.float32)
    model.model.layers[1].mlp.up_proj.weight.data[3, 3] = value
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"layers\.1\.mlp\.up_proj\.weight had values that are NaN"):
        load_model(quantized(tmp_path, name))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "expected load_in_4bit or load_in_8bit to be true"),
        (NF4 | {"bnb_4bit_quant_type": "nf5"}, "bnb_4bit_quant_type is 'nf5': expected nf4 or fp4"),
        ({"load_in_8bit": True, "llm_int8_has_fp16_weight": True}, "llm_int8_has_fp16_weight is"),
        (
            {"load_in_8bit": True, "llm_int8_enable_fp32_cpu_offload": True},
            "llm_int8_enable_fp32_cpu_offload is true: expected false",
        ),
    ],
)
def test_settings_that_quantize_nothing_are_an_error(settings, message, tiny_backbone):
    backbone = Backbone(str(tiny_backbone), quantization=BitsAndBytesConfig(**settings))
    for load in (load_meta_model, load_model):
        with pytest.raises(UserError, match=message) as error:
            load(backbone)
        assert "model.init_args.backbone.quantization" in str(error.value)


def test_a_missing_package_names_its_extra(tiny_backbone, monkeypatch):
    monkeypatch.setattr(extras, "is_installed", lambda module: module != "bitsandbytes")
    with pytest.raises(UserError, match=r'quantization needs bitsandbytes.*tera-pl\[quant\]"'):
        load_model(quantized(tiny_backbone, "nf4"))


def test_a_base_that_cannot_be_quantized_is_an_error(tiny_backbone, tmp_path):
    with pytest.raises(UserError, match="not pretrained has no weights to quantize"):
        load_model(quantized(tiny_backbone, "nf4", pretrained=False))
    load_model(quantized(tiny_backbone, "nf4")).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="the files of the model are quantized already"):
        load_model(quantized(tmp_path, "int8"))


def test_a_base_whose_files_are_quantized_is_the_same_base(tiny_backbone, tmp_path):
    model = load_model(quantized(tiny_backbone, "nf4"))
    model.save_pretrained(tmp_path)
    stored = Backbone(str(tmp_path), dtype="float32")
    found = adapt(load_model(stored), "tera")
    expected = loss_and_gradients(adapt(model, "tera"))
    assert_same(loss_and_gradients(found), expected, rtol=1e-5, atol=1e-7)
    assert count(adapt(load_meta_model(stored), "tera")) == count(found)


@pytest.mark.parametrize("path", sorted((ROOT / "configs/base/quantization").glob("*.yaml")))
def test_shipped_fragments_quantize(path, tiny_backbone):
    given = yaml.safe_load(path.read_text())["model"]["init_args"]["backbone"]["quantization"]
    assert given["class_path"] == "transformers.BitsAndBytesConfig"
    config = BitsAndBytesConfig(**given["init_args"])
    model = load_model(Backbone(str(tiny_backbone), quantization=config))
    assert is_quantized(model.model.layers[0].mlp.up_proj)
    assert not is_quantized(model.lm_head)


def logits(model):
    ids = torch.arange(4, 20).reshape(2, 8)
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits


@pytest.mark.parametrize("name", ["nf4", "int8"])
def test_layers_with_a_transposed_weight_are_dequantized_as_they_are_stored(name, tmp_path):
    """GPT-2: transformers gives these layers back as `Linear`, and saves them transposed."""
    config = GPT2Config(vocab_size=45, n_embd=32, n_layer=1, n_head=2, n_positions=32)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "base")
    backbone = quantized(tmp_path / "base", name)
    model = load_model(backbone)
    expected = {n: backend_weight(layer) for n, layer in quantized_layers(model).items()}
    dequantize(model, torch.float32).save_pretrained(tmp_path / "plain")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    assert len(expected) == 4
    for path, weight in expected.items():
        assert torch.equal(plain.get_submodule(path).weight.T, weight)
        assert isinstance(plain.get_submodule(path), Conv1D)
    assert torch.equal(logits(plain), logits(model))


def backend_weight(layer):
    """The weight as PEFT gets it back."""
    return resolve_quantization_backend(layer).get_base_weight(layer)
