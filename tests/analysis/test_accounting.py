"""Counts of every method on the real shapes, against arithmetic written out.

Percents with four digits are those of HiRA's Table 1, whose authors counted with other code.
"""

from math import isqrt

import peft
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tera_pl.adapters import (
    LoraXsConfig,
    LorettaConfig,
    LotrConfig,
    MoraConfig,
    NolaConfig,
    TeraConfig,
)
from tera_pl.analysis import count
from tera_pl.models.backbone import add_adapter

SIZES = {
    "7B": LlamaConfig(),  # the library's defaults are Llama-2-7B
    "8B": LlamaConfig(vocab_size=128256, intermediate_size=14336, num_key_value_heads=8),
}
L = 32  # layers
D = 4096  # width, and outputs of q_proj
KV = {"7B": 4096, "8B": 1024}  # outputs of k_proj and v_proj
FF = {"7B": 11008, "8B": 14336}
V = {"7B": 32000, "8B": 128256}
NORMS = (2 * L + 1) * D
QV = ["q_proj", "v_proj"]
HIRA_TARGETS = ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"]
TOKENS = 20


def base_params(size):
    layer = 2 * D * D + 2 * D * KV[size] + 3 * D * FF[size]
    return 2 * V[size] * D + L * layer + NORMS


def count_adapted(size, adapter):
    with torch.device("meta"):
        model = LlamaForCausalLM(SIZES[size])
    return count(add_adapter(model, adapter))


def lora(r, size):
    return L * r * ((D + D) + (D + KV[size]))


def train(modes, rank):
    """Numbers of a tensor train."""
    first, *inner, last = modes
    return first * rank + sum(mode * rank**2 for mode in inner) + last * rank


def loretta(size):
    wide, narrow = train([16, 16, 8, 4, 4], 5), train([4, 8, 8, 8, 4], 5)
    return L * (3 * wide + {4096: wide, 1024: narrow}[KV[size]])


def mora(r, size):
    sides = [isqrt(r * (D + D)), isqrt(r * (D + KV[size]))]
    return L * sum((side - side % 2) ** 2 for side in sides)


def randlora(r, size):
    # Of each basis its r scales and one for every entry of the smaller side.
    return L * sum((r + side) * side // r for side in (D, KV[size]))


def lotr(r, size):
    shapes = {(D, D), (D, KV[size])}  # layers of one shape share the outer factors
    return sum(r * (rows + columns) for rows, columns in shapes) + 2 * L * r**2


def prompt():
    return peft.PromptTuningConfig(num_virtual_tokens=TOKENS, task_type="CAUSAL_LM")


def p_tuning(kind, hidden):
    return peft.PromptEncoderConfig(
        num_virtual_tokens=TOKENS,
        encoder_reparameterization_type=kind,
        encoder_hidden_size=hidden,
        task_type="CAUSAL_LM",
    )


# Trainable parameters and, if a method adds any, frozen ones.
ADAPTERS = {
    "lora": (lambda: peft.LoraConfig(r=32, target_modules=QV), lambda s: lora(32, s), None),
    "dora": (
        lambda: peft.LoraConfig(r=32, use_dora=True, target_modules=QV),
        lambda s: lora(32, s) + L * (D + KV[s]),
        None,
    ),
    "hira_r1": (lambda: peft.HiraConfig(r=1, target_modules=QV), lambda s: lora(1, s), None),
    "hira_r32": (lambda: peft.HiraConfig(r=32, target_modules=QV), lambda s: lora(32, s), None),
    "vera": (
        lambda: peft.VeraConfig(r=256, save_projection=False, target_modules=QV),
        lambda s: L * (D + KV[s] + 2 * 256),
        lambda s: 2 * 256 * D,
    ),
    "randlora": (
        lambda: peft.RandLoraConfig(r=32, save_projection=False, target_modules=QV),
        lambda s: randlora(32, s),
        lambda s: 32 * D + D * D,
    ),
    "ia3": (
        lambda: peft.IA3Config(target_modules=QV, feedforward_modules=[]),
        lambda s: L * (D + KV[s]),
        None,
    ),
    # An angle and a scale for each pair of outputs.
    "road": (lambda: peft.RoadConfig(target_modules=QV), lambda s: L * (D + KV[s]), None),
    # A bank of 2,048 vectors, and logits that mix each part of A and B from all of them.
    "vblora": (
        lambda: peft.VBLoRAConfig(r=4, num_vectors=2048, vector_length=256, target_modules=QV),
        lambda s: 2048 * (256 + lora(4, s) // 256),
        None,
    ),
    "c3a": (
        lambda: peft.C3AConfig(block_size=256, target_modules=QV),
        lambda s: L * D * (D + KV[s]) // 256,
        None,
    ),
    # One vector; for each entry of LoRA's factors the index of its value and a scale.
    "unilora": (
        lambda: peft.UniLoraConfig(r=4, theta_d_length=2**18, target_modules=QV),
        lambda s: 2**18,
        lambda s: 2 * lora(4, s),
    ),
    "beft": (lambda: peft.BeftConfig(target_modules=["v_proj"]), lambda s: L * KV[s], None),
    "loretta": (lambda: LorettaConfig(r=8, tensor_rank=5, target_modules=QV), loretta, None),
    "mora": (lambda: MoraConfig(r=8, target_modules=QV), lambda s: mora(8, s), None),
    "lotr": (lambda: LotrConfig(r=32, target_modules=QV), lambda s: lotr(32, s), None),
    # Of each size of inputs and of outputs k matrices, which layers share.
    "nola": (
        lambda: NolaConfig(r=16, k=1024, target_modules=QV),
        lambda s: 2 * L * 2 * 1024,
        lambda s: 1024 * 16 * (D + sum({D, KV[s]})),
    ),
    "tera": (
        lambda: TeraConfig(out_modes=2, in_modes=1, target_modules=QV),
        lambda s: L * ((64 + 64 + D) + (2 * isqrt(KV[s]) + D)),
        # A core and a factor of the width for each shape of layer; the latter is shared.
        lambda s: (
            D * D + sum(rows * D + 2 * rows for rows in {D, KV[s]})  # 2 factors of sqrt(rows)^2
        ),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("method", ADAPTERS)
def test_parameters_of_adapters(method, size):
    adapter, formula, frozen = ADAPTERS[method]
    counts = count_adapted(size, adapter())
    trained, base = formula(size), base_params(size)
    assert counts.trained == counts.stored == trained
    assert counts.stored_bytes == 4 * trained
    assert (counts.trained_norms, counts.trained_biases) == (0, 0)
    assert (counts.base, counts.base_bytes) == (base, 4 * base)
    assert counts.frozen_adapter == (frozen(size) if frozen else 0)
    assert counts.trained_percent == pytest.approx(100 * trained / (base + trained))


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_singular_vectors_are_stored_beside_what_is_trained_between_them(size):
    config = peft.TinyLoraConfig(r=2, u=64, save_projection=False, target_modules=QV)
    counts = count_adapted(size, config)
    assert counts.trained == 2 * L * 64
    assert counts.stored == counts.trained + lora(2, size)
    assert counts.frozen_adapter == lora(2, size) + 2 * L * 64 * 2**2
    counts = count_adapted(size, LoraXsConfig(r=64, target_modules=QV))
    assert counts.trained == 2 * L * 64**2
    assert counts.stored == counts.trained + lora(64, size)
    assert counts.frozen_adapter == lora(64, size)


@pytest.mark.parametrize("kind", [peft.FourierFTConfig, peft.WaveFTConfig])
def test_sparse_spectra_train_their_coefficients(kind, tiny_backbone):
    """On a small model: drawing the places takes a second per layer of the real sizes."""
    model = add_adapter(
        LlamaForCausalLM.from_pretrained(tiny_backbone), kind(n_frequency=7, target_modules=QV)
    )
    counts = count(model)
    assert counts.trained == counts.stored == 2 * 2 * 7


def test_the_sizes_are_the_real_ones():
    assert base_params("7B") == 6_738_415_616
    assert base_params("8B") == 8_030_261_248


@pytest.mark.parametrize(
    ("method", "seven", "eight"),
    [
        ("hira_r1", 524_288, 425_984),
        ("hira_r32", 16_777_216, 13_631_488),
        ("vera", 278_528, 180_224),
        ("loretta", 102_400, 97_280),
        ("tera", 270_336, 268_288),
    ],
)
def test_formulas_give_the_counts_of_the_papers(method, seven, eight):
    formula = ADAPTERS[method][1]
    assert (formula("7B"), formula("8B")) == (seven, eight)


@pytest.mark.parametrize(
    ("adapter", "seven", "eight"),
    [
        (lambda: peft.LoraConfig(r=32, target_modules=HIRA_TARGETS), 0.8256, 0.7002),
        (lambda: MoraConfig(r=32, target_modules=HIRA_TARGETS), 0.8241, 0.6997),
        (prompt, 0.0012, 0.0010),
        (lambda: p_tuning("MLP", D), 0.7428, 0.6240),
    ],
    ids=["lora", "mora", "prompt_tuning", "p_tuning"],
)
@pytest.mark.slow
def test_percents_of_the_published_table(adapter, seven, eight):
    for size, percent in (("7B", seven), ("8B", eight)):
        assert count_adapted(size, adapter()).trained_percent == pytest.approx(percent, abs=5e-5)


def linear(inputs, outputs):
    return inputs * outputs + outputs


def lstm(inputs, hidden):
    """Two bidirectional layers, four gates each, with two biases (PyTorch's), and the head."""
    direction = [4 * hidden * (n + hidden) + 8 * hidden for n in (inputs, 2 * hidden)]
    return 2 * sum(direction) + linear(2 * hidden, 2 * hidden) + linear(2 * hidden, inputs)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("adapter", "encoder"),
    [
        (prompt(), 0),
        (p_tuning("MLP", 4096), linear(D, 4096) + linear(4096, 4096) + linear(4096, D)),
        (p_tuning("LSTM", 1024), lstm(D, 1024)),
    ],
    ids=["prompt_tuning", "mlp", "lstm"],
)
@pytest.mark.slow
def test_prompt_methods_store_the_prompt_and_train_the_encoder(adapter, encoder, size):
    counts = count_adapted(size, adapter)
    assert counts.trained == TOKENS * D + encoder
    assert counts.stored == TOKENS * D
    assert counts.base == base_params(size)
    assert counts.frozen_adapter == 0


@pytest.mark.parametrize("size", SIZES)
def test_trained_norms_are_counted_apart(size):
    adapter = LorettaConfig(r=8, tensor_rank=5, train_norms=True, target_modules=QV)
    counts = count_adapted(size, adapter)
    assert counts.trained == loretta(size) + NORMS
    assert counts.trained_norms == NORMS
    # What is trained is a copy; the norms of the base stay as they are.
    assert counts.base == base_params(size)


@pytest.mark.parametrize("size", SIZES)
def test_stored_frozen_tensors_are_counted_in_the_file(size):
    adapter = TeraConfig(out_modes=2, in_modes=1, save_frozen=True, target_modules=QV)
    counts = count_adapted(size, adapter)
    assert counts.stored == counts.trained + counts.frozen_adapter
    assert counts.stored_bytes == 4 * counts.stored
    assert adapter.save_frozen


@pytest.mark.parametrize("size", SIZES)
def test_full_fine_tuning(size):
    with torch.device("meta"):
        model = LlamaForCausalLM(SIZES[size]).to(torch.bfloat16)
    counts = count(model)
    assert counts.trained == counts.stored == base_params(size)
    assert counts.stored_bytes == 2 * base_params(size)
    assert counts.trained_norms == NORMS
    assert counts.trained_percent == 100
    assert counts.base == 0


def test_trained_biases_are_counted_apart():
    config = LlamaConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=10,
        attention_bias=True,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    counts = count(add_adapter(model, peft.LoraConfig(r=3, bias="all", target_modules=["v_proj"])))
    assert counts.trained_biases == 2 * 4 * 16  # q, k, v, o of two layers
    assert counts.trained == 2 * 3 * 32 + counts.trained_biases
    assert counts.stored == counts.trained
