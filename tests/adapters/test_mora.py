"""MoRA: its maps against the paper's equations written out over indices, and its counts."""

import math
from collections.abc import Callable

import pytest
import torch
from peft import PeftConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from tera_pl.adapters import MoraConfig
from tera_pl.adapters.mora import compression

# in, out, r_hat: chunks that fit, padding, one chunk, a matrix larger than the layer, out > in
SIZES = [
    (12, 8, 4),
    (12, 12, 6),
    (13, 9, 4),
    (7, 30, 4),
    (30, 7, 4),
    (10, 10, 10),
    (3, 5, 8),
    (1, 1, 2),
    (24, 1, 2),
    (1, 24, 2),
]


def sharing_by_index(matrix: Tensor, x: Tensor, out_features: int) -> list[float]:
    """Eq. 6: group j of the inputs, j mod r_hat, is summed up; row i mod r_hat makes output i."""
    r_hat, inputs = len(matrix), x.tolist()
    padded = math.ceil(len(inputs) / r_hat) * r_hat
    compressed = [0.0] * r_hat
    for j in range(padded):
        compressed[j % r_hat] += inputs[j % len(inputs)]
    return [
        sum(matrix[i % r_hat, k].item() * compressed[k] for k in range(r_hat))
        for i in range(out_features)
    ]


def rotation_by_index(matrix: Tensor, x: Tensor, out_features: int) -> list[float]:
    """Eq. 9: chunk t is multiplied by a block-diagonal rotation, then by the matrix."""
    r_hat, inputs = len(matrix), x.tolist()
    half, results = r_hat // 2, []
    for t in range(math.ceil(len(inputs) / r_hat)):
        chunk = [inputs[(t * r_hat + k) % len(inputs)] for k in range(r_hat)]
        turned = [0.0] * r_hat
        for i in range(half):
            z = complex(chunk[i], chunk[i + half])
            angle = t * 10000 ** (-2 * i / r_hat)
            z *= complex(math.cos(angle), math.sin(angle))
            turned[i], turned[i + half] = z.real, z.imag
        results += [
            sum(matrix[a, k].item() * turned[k] for k in range(r_hat)) for a in range(r_hat)
        ]
    return [results[i % len(results)] for i in range(out_features)]


BY_INDEX = {"sharing": sharing_by_index, "rotation": rotation_by_index}
FORMS = pytest.mark.parametrize("form", BY_INDEX)


def close(actual: Tensor, expected: Tensor) -> None:
    # Sums of some dozens of terms of size one, in float64.
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


@FORMS
@pytest.mark.parametrize(("in_features", "out_features", "r_hat"), SIZES)
def test_map_is_the_papers(form: str, in_features: int, out_features: int, r_hat: int) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(r_hat, r_hat, dtype=torch.float64)
    x = torch.randn(2, 3, in_features, dtype=torch.float64)
    outputs = compression.apply(matrix, x, out_features, form)
    assert outputs.shape == (2, 3, out_features)
    for row, output in zip(x.flatten(0, 1), outputs.flatten(0, 1), strict=True):
        expected = BY_INDEX[form](matrix, row, out_features)
        close(output, torch.tensor(expected, dtype=torch.float64))
    delta = compression.weight(matrix, in_features, out_features, form)
    assert delta.shape == (out_features, in_features)
    close(x @ delta.T, outputs)


@pytest.mark.parametrize("r_hat", [3, 5, 9])
def test_sharing_takes_odd_sizes(r_hat: int) -> None:
    torch.manual_seed(0)
    matrix, x = torch.randn(r_hat, r_hat).double(), torch.randn(13).double()
    expected = torch.tensor(sharing_by_index(matrix, x, 11), dtype=torch.float64)
    close(compression.apply(matrix, x, 11, "sharing"), expected)
    close(compression.weight(matrix, 13, 11, "sharing") @ x, expected)


@FORMS
def test_map_is_linear_in_the_matrix_and_has_its_gradient(form: str) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(4, 4, dtype=torch.float64, requires_grad=True)
    x = torch.randn(2, 11, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda m, v: compression.apply(m, v, 9, form), (matrix, x))
    torch.autograd.gradcheck(lambda m: compression.weight(m, 11, 9, form), (matrix,))


def test_rotation_tells_chunks_apart_and_has_a_higher_rank() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(4, 4, dtype=torch.float64)
    ranks = {
        form: torch.linalg.matrix_rank(compression.weight(matrix, 24, 24, form)).item()
        for form in BY_INDEX
    }
    assert ranks == {"sharing": 4, "rotation": 24}


@pytest.mark.parametrize(
    ("sizes", "rank", "form", "r_hat"),
    [
        ((4096, 4096), 8, "rotation", 256),
        ((4096, 4096), 8, "sharing", 256),
        ((4096, 4096), 32, "rotation", 512),
        ((4096, 11008), 32, "rotation", 694),
        ((4096, 11008), 32, "sharing", 695),
        ((4096, 1024), 32, "rotation", 404),
        ((2, 1), 1, "sharing", 1),
    ],
)
def test_size_of_the_matrix(sizes: tuple[int, int], rank: int, form: str, r_hat: int) -> None:
    assert compression.square_size(*sizes, rank, form) == r_hat


LLAMA_2_7B = LlamaConfig()  # the library's defaults are this model
LLAMA_3_8B = LlamaConfig(vocab_size=128256, intermediate_size=14336, num_key_value_heads=8)
# The percentages are those that HiRA's authors report for MoRA of rank 32 on these targets.
QKV_UP_DOWN = ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"]
COUNTS = [
    (LLAMA_2_7B, ["q_proj", "v_proj"], 8, 32 * 2 * 256**2, None),
    (LLAMA_3_8B, ["q_proj", "v_proj"], 8, 32 * (256**2 + 202**2), None),
    (LLAMA_2_7B, QKV_UP_DOWN, 32, 32 * (3 * 512**2 + 2 * 694**2), 0.8241),
    (LLAMA_3_8B, QKV_UP_DOWN, 32, 32 * (512**2 + 2 * 404**2 + 2 * 768**2), 0.6997),
]


@pytest.mark.parametrize(("llama_config", "targets", "r", "trained", "percent"), COUNTS)
def test_trainable_parameters_on_llama(
    llama_config: LlamaConfig, targets: list[str], r: int, trained: int, percent: float | None
) -> None:
    with torch.device("meta"):
        base = LlamaForCausalLM(llama_config)
    model = get_peft_model(base, MoraConfig(target_modules=targets, r=r))
    found, total = model.get_nb_trainable_parameters()
    assert found == trained
    if percent is not None:
        assert round(100 * found / total, 4) == percent


@FORMS
def test_trained_adapter_reloads_to_the_same_bits(
    form: str, llama: Callable, input_ids: Tensor, tmp_path
) -> None:
    config = MoraConfig(target_modules=["q_proj", "v_proj"], r=2, form=form)
    base = llama(torch.bfloat16)
    expected = base(input_ids).logits
    model = get_peft_model(base, config)
    assert torch.equal(model(input_ids).logits, expected)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.01)
    for _ in range(2):
        model(input_ids, labels=input_ids).loss.backward()
        optimizer.step()
    assert not torch.equal(model(input_ids).logits, expected)
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert sum(value.numel() for value in saved.values()) == sum(p.numel() for p in trained)
    assert all(value.dtype == torch.float32 for value in saved.values())
    loaded_config = PeftConfig.from_pretrained(tmp_path)
    assert (loaded_config.peft_type, loaded_config.r, loaded_config.form) == ("MORA", 2, form)
    loaded = PeftModel.from_pretrained(llama(torch.bfloat16), tmp_path)
    assert torch.equal(loaded(input_ids).logits, model(input_ids).logits)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"r": 0}, r"r is 0: expected a whole number"),
        ({"r_hat": 5}, r"r_hat is 5: .* even"),
        ({"r_hat": 2.5}, r"r_hat is 2.5: expected a whole number"),
        ({"form": "rope"}, r"form is 'rope': expected rotation or sharing"),
        ({"dropout": 1.0}, r"dropout is 1.0"),
        ({"layers_pattern": "h"}, r"set both"),
        ({"target_modules": ".*q", "layers_to_transform": [0]}, r"needs a list of target_modules"),
    ],
)
def test_invalid_settings_are_named(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MoraConfig(**({"target_modules": ["q_proj"]} | settings))


def test_a_layer_too_small_for_a_matrix_is_named() -> None:
    net = nn.Sequential(nn.Linear(1, 1))
    with pytest.raises(ValueError, match=r"module 0: r = 1 leaves no matrix for 1 inputs"):
        get_peft_model(net, MoraConfig(target_modules=["0"], r=1))
