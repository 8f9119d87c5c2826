"""Loss and gradients without padding and with few logits are those of transformers' own."""

import copy

import peft
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM, LlamaConfig

from tera_pl.adapters import TeraConfig
from tera_pl.models import packed_attention as packing
from tera_pl.models.packed_attention import ATTENTION, pack
from tera_pl.tasks.loss import IGNORED, prepare, supervised_loss

LENGTHS = [7, 3, 11, 1]


def make_batch(vocab_size=50, left=False):
    generator = torch.Generator().manual_seed(0)
    longest = max(LENGTHS)
    ids = torch.randint(vocab_size, (len(LENGTHS), longest), generator=generator)
    place = torch.arange(longest)
    mask = torch.stack([place >= longest - n if left else place < n for n in LENGTHS])
    # Half of every sequence is supervised, as after a prompt; none of the shortest.
    labels = torch.full_like(ids, IGNORED)
    for row, length in enumerate(LENGTHS):
        seen = mask[row].nonzero().flatten()
        labels[row, seen[length // 2 + 1 :]] = ids[row, seen[length // 2 + 1 :]]
    return {"input_ids": ids, "attention_mask": mask.long(), "labels": labels}


def make_model(attention, **changes):
    torch.manual_seed(0)
    settings = {
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 50,
    }
    config = LlamaConfig(**(settings | changes))
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    return model.double().train()


def reference(model, batch):
    """transformers' own loss, padded and with every logit, and its gradients."""
    model.zero_grad()
    # Positions of left-padded rows begin at their first token.
    positions = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    loss = model(**batch, position_ids=positions).loss
    loss.backward()
    return loss.detach(), gradients(model)


def gradients(model):
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_loss_and_gradients_are_those_of_the_padded_model(tied, left, checkpointing):
    batch = make_batch(left=left)
    expected_loss, expected = reference(make_model("sdpa", tie_word_embeddings=tied), batch)
    model = make_model(ATTENTION, tie_word_embeddings=tied)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    loss, number = supervised_loss(model, prepare(batch, packed=True))
    loss.backward()
    assert number == int((batch["labels"][:, 1:] != IGNORED).sum())
    # Doubles up to the rotary embedding and the norms, which transformers computes in float32.
    torch.testing.assert_close(loss.double(), expected_loss.double(), rtol=1e-6, atol=0)
    found = gradients(model)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    "config",
    [
        TeraConfig(target_modules=["q_proj", "v_proj"], init_weights=False),
        peft.LoraConfig(target_modules=["q_proj", "lm_head"], init_lora_weights=False),
        peft.LoraConfig(target_modules=["v_proj"], modules_to_save=["lm_head"]),
        peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
        peft.PromptEncoderConfig(
            num_virtual_tokens=3, encoder_hidden_size=8, task_type="CAUSAL_LM"
        ),
    ],
    ids=["tera", "lora on the head", "head in full", "prompt tuning", "p-tuning"],
)
def test_adapted_models(config):
    batch = make_batch()
    adapted = peft.get_peft_model(make_model(ATTENTION), copy.deepcopy(config)).train()
    adapted.zero_grad()
    expected_loss = adapted(**batch).loss
    expected_loss.backward()
    expected = gradients(adapted)
    assert expected
    for packed in [False] if config.is_prompt_learning else [False, True]:
        adapted.zero_grad()
        loss, _ = supervised_loss(adapted, prepare(batch, packed=packed))
        loss.backward()
        torch.testing.assert_close(loss, expected_loss.to(loss), rtol=1e-6, atol=0)
        for name, gradient in gradients(adapted).items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-7)


def test_logits_are_made_for_supervised_positions_only():
    seen = []
    model = make_model(ATTENTION)
    model.lm_head.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    batch = make_batch()
    _, number = supervised_loss(model, prepare(batch, packed=True))
    assert seen == [(1, number, 50)]
    assert not model.lm_head._forward_pre_hooks


def test_packed_row_has_every_real_token_once():
    batch = make_batch()
    packed = pack({key: batch[key] for key in ("input_ids", "attention_mask")})
    assert packed["lengths"] == LENGTHS
    assert packed["position_ids"].tolist() == [[i for n in LENGTHS for i in range(n)]]
    rows = zip(batch["input_ids"].tolist(), LENGTHS, strict=True)
    assert packed["input_ids"].tolist() == [[t for row, n in rows for t in row[:n]]]


def test_generation_is_that_of_sdpa():
    ids = torch.randint(1, 50, (2, 5), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, :2] = 0
    answers = [
        make_model(name)
        .eval()
        .generate(ids, attention_mask=mask, max_new_tokens=6, do_sample=False)
        for name in ("sdpa", ATTENTION)
    ]
    assert torch.equal(*answers)


def attend(heads, key_heads, dtype, at_once, monkeypatch, window=None):
    """Outputs and gradients of packed attention on random queries, keys and values."""
    generator = torch.Generator().manual_seed(0)
    tokens, size = sum(LENGTHS), 16
    shapes = [(1, n, tokens, size) for n in (heads, key_heads, key_heads)]
    inputs = [
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in shapes
    ]
    boundaries = torch.tensor([0, *LENGTHS]).cumsum(0).to(torch.int32)
    monkeypatch.setattr(packing, "_has_kernel", lambda *_: at_once)
    module = torch.nn.Module()
    module.num_key_value_groups = heads // key_heads
    output, _ = packing.packed_attention(
        module,
        *inputs,
        None,
        scaling=0.3,
        lengths=LENGTHS,
        boundaries=boundaries,
        sliding_window=window,
    )
    output.backward(torch.randn(output.shape, generator=generator, dtype=torch.float64).to(dtype))
    return output, *(t.grad for t in inputs)


def one_kernel(query, key, value, cu_q, cu_k, max_q, max_k, *, scale, window_size, enable_gqa):
    """What torch documents of `varlen_attn`, from the formula of attention."""
    assert cu_q.dtype == cu_k.dtype == torch.int32
    assert cu_q.tolist() == cu_k.tolist() == [0, *torch.tensor(LENGTHS).cumsum(0).tolist()]
    assert max_q == max_k == max(LENGTHS)
    before, after = window_size  # tokens that are seen beside itself; -1 is all
    assert after == 0
    assert query.shape[0] == key.shape[0] == value.shape[0] == sum(LENGTHS)
    assert all(t.is_contiguous() for t in (query, key, value))
    assert enable_gqa == (query.shape[1] != key.shape[1])
    groups = query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(groups, dim=1) for t in (key, value))
    sequence = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
    place = torch.arange(len(sequence))
    distance = place[:, None] - place
    seen = (sequence[:, None] == sequence) & (distance >= 0)
    seen &= (distance <= before) | (before < 0)
    products = torch.einsum("qhd,khd->hqk", query, key) * scale
    weights = products.masked_fill(~seen, -torch.inf).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, value)


@pytest.mark.parametrize("window", [None, 11, 4, 1])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_attention_at_once_is_that_of_one_sequence_after_the_other(key_heads, window, monkeypatch):
    expected = attend(4, key_heads, torch.float64, False, monkeypatch, window)
    monkeypatch.setattr(packing, "varlen_attn", one_kernel)
    found = attend(4, key_heads, torch.float64, True, monkeypatch, window)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    # A window that no sequence exceeds changes nothing.
    full = attend(4, key_heads, torch.float64, False, monkeypatch)
    assert torch.equal(full[0], expected[0]) == (window in {None, 11})


@pytest.mark.parametrize("name", ["softcap", "position_bias", "s_aux"])
def test_terms_of_attention_that_are_not_computed_are_refused(name):
    query = torch.zeros(1, 2, 3, 4)
    with pytest.raises(NotImplementedError, match=name):
        packing.packed_attention(
            torch.nn.Module(), query, query, query, None, lengths=[3], **{name: torch.ones(1)}
        )


def test_torch_has_the_kernel_for_these_shapes(monkeypatch):
    monkeypatch.setattr(packing, "_kernel_dtype", lambda query: torch.bfloat16)
    shapes = [(1, heads, sum(LENGTHS), 16) for heads in (4, 2, 2)]
    dtypes = [torch.float32, torch.float32, torch.bfloat16]  # as autocast leaves them
    inputs = [
        torch.empty(shape, dtype=dtype, device="meta", requires_grad=True)
        for shape, dtype in zip(shapes, dtypes, strict=True)
    ]
    boundaries = torch.empty(len(LENGTHS) + 1, dtype=torch.int32, device="meta")
    output = packing._attend_at_once(*inputs, boundaries, max(LENGTHS), 0.3)
    output.backward(torch.empty_like(output))
    assert (output.shape, output.dtype) == ((1, sum(LENGTHS), 4, 16), torch.bfloat16)
    assert [t.grad.shape for t in inputs] == shapes
    assert [t.grad.dtype for t in inputs] == dtypes


@pytest.mark.parametrize(
    ("device", "dtype", "size", "dropout", "expected"),
    [
        ("cuda", torch.bfloat16, 128, 0.0, True),
        ("cuda", torch.float16, 64, 0.0, True),
        ("cuda", torch.float32, 128, 0.0, False),
        ("cuda", torch.bfloat16, 128, 0.1, False),
        ("cuda", torch.bfloat16, 6, 0.0, False),
        ("cuda", torch.bfloat16, 512, 0.0, False),
        ("cpu", torch.bfloat16, 128, 0.0, False),
    ],
)
def test_kernel_is_taken_where_it_is(device, dtype, size, dropout, expected, monkeypatch):
    """On tensors that only have shapes: there is no such device here."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    with FakeTensorMode():
        query = torch.empty(1, 4, 8, size, dtype=dtype, device=device)
        assert packing._has_kernel(query, dropout) == expected
