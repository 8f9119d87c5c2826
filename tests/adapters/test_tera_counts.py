"""Trainable parameters of TeRA on real shapes, on the meta device: nothing is drawn."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from tera_pl.adapters import TeraConfig
from tera_pl.adapters.tera import TeraLayer

LLAMA_2_7B = LlamaConfig()  # the library's defaults are this model
LLAMA_3_8B = LlamaConfig(vocab_size=128256, intermediate_size=14336, num_key_value_heads=8)


@pytest.fixture(scope="module")
def bases() -> dict[str, LlamaForCausalLM]:
    with torch.device("meta"):
        return {"7B": LlamaForCausalLM(LLAMA_2_7B), "8B": LlamaForCausalLM(LLAMA_3_8B)}


@pytest.fixture
def base(bases: dict[str, LlamaForCausalLM], size: str) -> Iterator[LlamaForCausalLM]:
    yield bases[size]
    for module in bases[size].modules():
        for name, child in list(module.named_children()):
            if isinstance(child, TeraLayer):
                setattr(module, name, child.get_base_layer())


def keep_out(out: int, v_in: int) -> dict[str, Any]:
    """q keeps its input, v keeps its output."""
    return {"out_modes": out, "modes_pattern": {"v_proj": {"out_modes": 1, "in_modes": v_in}}}


def keep_in(out: int | list[int], v_out: int | list[int]) -> dict[str, Any]:
    """Both keep their input."""
    return {"out_modes": out, "modes_pattern": {"v_proj": {"out_modes": v_out}}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "settings", "trained"),
    [
        ("7B", {"out_modes": 2}, 270_336),
        ("7B", {"out_modes": 3}, 265_216),
        ("7B", {"out_modes": 4}, 264_192),
        ("7B", {"out_modes": 6}, 263_680),
        ("7B", {"out_modes": 12}, 263_680),
        ("7B", {"out_modes": 1, "in_modes": 4}, 264_192),
        ("8B", keep_in(2, 2), 268_288),
        ("8B", keep_in(2, 5), 266_880),
        ("8B", keep_in(2, 10), 266_880),
        ("8B", keep_in(3, 2), 265_728),
        ("8B", keep_in(4, 2), 265_216),
        ("8B", keep_in(6, 2), 264_960),
        ("8B", keep_in([2] * 12, [32, 32]), 264_960),
        ("8B", keep_out(2, 2), 172_032),
        ("8B", keep_out(2, 3), 169_472),
        ("8B", keep_out(3, 2), 169_472),
        ("8B", keep_out(3, 3), 166_912),
        ("8B", keep_out(4, 4), 165_888),
        ("8B", keep_out(6, 12), 165_376),
    ],
)
def test_trainable_parameters_on_llama(
    base: LlamaForCausalLM, settings: dict[str, Any], trained: int
) -> None:
    model = get_peft_model(base, TeraConfig(target_modules=["q_proj", "v_proj"], **settings))
    assert model.get_nb_trainable_parameters()[0] == trained
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize("size", ["8B"])
def test_file_on_the_llama_3_8b_shape(base: LlamaForCausalLM, size: str, tmp_path) -> None:
    config = TeraConfig(target_modules=["q_proj", "v_proj"], out_modes=3, task_type="CAUSAL_LM")
    model = get_peft_model(base, config)
    written = {}
    for name, module in model.named_modules():
        if isinstance(module, TeraLayer):
            vectors = module.tera_vectors["default"]
            for index, vector in enumerate(list(vectors)):
                value = torch.randn(vector.shape)
                vectors[index] = torch.nn.Parameter(value)
                written[f"{name}.tera_vectors.{index}"] = value
    model.save_pretrained(tmp_path)
    trained = model.get_nb_trainable_parameters()[0]
    assert trained == 32 * ((4096 + 3 * 16) + (4096 + 8 + 8 + 16))
    assert (tmp_path / "adapter_model.safetensors").stat().st_size <= 1.25 * 4 * trained
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert saved.keys() == written.keys()
    assert all(torch.equal(saved[name], value) for name, value in written.items())
