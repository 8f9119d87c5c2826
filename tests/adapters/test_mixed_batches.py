"""A batch whose examples use different adapters, beside one adapter at a time."""

from collections.abc import Callable, Iterator

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn

from tera_pl import adapters
from tera_pl.adapters import LorettaConfig, LotrConfig, MoraConfig, TeraConfig
from tera_pl.adapters.tera import layer

TARGETS = {"target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", "init_weights": False}
# Two that share their frozen tensors, but not the scaling; three with tensors of their own, of
# which the last is on other modules too.
CONFIGS = {
    "a": {},
    "b": {"scaling": 0.3, "dropout": 0.5, "compute": "materialized"},
    "seed": {"seed": 1},
    "modes": {"out_modes": 1, "in_modes": 3, "factor_init": "identity"},
    "targets": {
        "target_modules": ["q_proj", "down_proj"],
        "out_modes": 3,
        "core_init": "kronecker",
    },
}
NAMES = ["b", "__base__", "targets", "a", "seed", "b", "modes", "a", "__base__"]
IDS = torch.randint(40, (len(NAMES), 5), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def mixed(llama: Callable) -> PeftModel:
    model = None
    for name, settings in CONFIGS.items():
        config = TeraConfig(**TARGETS | settings)
        if model is None:
            model = get_peft_model(llama(torch.float64), config, adapter_name=name)
        else:
            model.add_adapter(name, config)
    return model.double().eval()


def one_at_a_time(model: PeftModel, run: Callable[[], torch.Tensor]) -> torch.Tensor:
    """Run the full batch with the adapter of each example and take that example."""
    outputs = []
    for example, name in enumerate(NAMES):
        if name == "__base__":
            with model.disable_adapter():
                outputs.append(run()[example])
        else:
            model.set_adapter(name)
            outputs.append(run()[example])
    return torch.stack(outputs)


def test_forward_is_that_of_one_adapter_at_a_time(mixed: PeftModel) -> None:
    with torch.no_grad():
        logits = mixed(input_ids=IDS, adapter_names=NAMES).logits
        expected = one_at_a_time(mixed, lambda: mixed(input_ids=IDS).logits)
    assert torch.unique(expected, dim=0).shape == expected.shape
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_base_examples_are_those_of_the_base(mixed: PeftModel, dtype: torch.dtype) -> None:
    mixed.to(dtype)
    with torch.no_grad():
        logits = mixed(input_ids=IDS, adapter_names=NAMES).logits
        with mixed.disable_adapter():
            expected = mixed(input_ids=IDS).logits
    same = [torch.equal(one, other) for one, other in zip(logits, expected, strict=True)]
    assert same == [name == "__base__" for name in NAMES]


def test_gradients_are_those_of_one_adapter_at_a_time(mixed: PeftModel) -> None:
    trained = [p for n, p in mixed.named_parameters() if ".tera_vectors." in n]
    weights = torch.randn(len(NAMES), 5, 40, dtype=torch.float64)

    def gradients(logits: torch.Tensor, weights: torch.Tensor) -> list[torch.Tensor]:
        return torch.autograd.grad((logits * weights).sum(), trained, materialize_grads=True)

    mixed.set_requires_grad(list(CONFIGS))
    found = gradients(mixed(input_ids=IDS, adapter_names=NAMES).logits, weights)
    expected = [torch.zeros_like(parameter) for parameter in trained]
    for example, name in enumerate(NAMES):
        if name == "__base__":
            continue
        mixed.set_adapter(name)
        mixed.set_requires_grad(list(CONFIGS))  # those of the others are zero
        alone = gradients(mixed(input_ids=IDS).logits[example], weights[example])
        expected = [total + one for total, one in zip(expected, alone, strict=True)]
    assert all(gradient.any() for gradient in found)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("beams", [1, 3])
def test_generation_of_padded_prompts(mixed: PeftModel, beams: int) -> None:
    mask = torch.ones_like(IDS)
    for example in range(len(NAMES)):
        mask[example, : example % 4] = 0

    def generate(**more: object) -> torch.Tensor:
        return mixed.generate(
            input_ids=IDS * mask,
            attention_mask=mask,
            num_beams=beams,
            min_new_tokens=6,
            max_new_tokens=6,
            do_sample=False,
            pad_token_id=0,
            **more,
        )

    found = generate(adapter_names=NAMES)
    expected = one_at_a_time(mixed, generate)
    assert torch.equal(found, expected)
    with mixed.disable_adapter():
        assert not torch.equal(found, generate())


def test_adapters_that_share_frozen_tensors_share_the_products(
    mixed: PeftModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    true = layer.apply_mixed
    monkeypatch.setattr(layer, "apply_mixed", lambda *a: calls.append(len(a[3])) or true(*a))
    with torch.no_grad():
        mixed(input_ids=IDS, adapter_names=NAMES)
    # In each of three layers: q has a and b (4 examples), seed, modes, targets; v lacks targets,
    # down has only that.
    assert sorted(calls) == sorted(3 * [4, 1, 1, 1, 4, 1, 1, 1])


@pytest.mark.parametrize("config", [LorettaConfig, MoraConfig, LotrConfig])
def test_other_methods(llama: Callable, config: type) -> None:
    settings = {"target_modules": ["q_proj"], "task_type": "CAUSAL_LM", "init_weights": False}
    model = get_peft_model(llama(torch.float64), config(**settings, r=4), adapter_name="a")
    model.add_adapter("b", config(**settings, r=2))
    model.double().eval()
    names = ["a", "b", "__base__", "a"]
    with torch.no_grad():
        logits = model(input_ids=IDS[:4], adapter_names=names).logits
        for name in ("a", "b"):
            model.set_adapter(name)
            alone = model(input_ids=IDS[:4]).logits
            for example in (i for i, one in enumerate(names) if one == name):
                torch.testing.assert_close(logits[example], alone[example], rtol=0, atol=1e-12)


def test_errors_leave_no_hooks_behind(mixed: PeftModel) -> None:
    invalid = {
        "Got adapter names of type <class 'str'>, expected a list of str": "a",
        r"Length of `adapter_names` should be .* got 1 and 9 respectively": ["a"],
        r"non-existing adapter\(s\): x, y": ["x", "y", *NAMES[2:]],
    }
    for message, names in invalid.items():
        with pytest.raises((TypeError, ValueError), match=message):
            mixed(input_ids=IDS, adapter_names=names)
    mixed.train()
    with pytest.raises(ValueError, match="when the model is in training mode"):
        mixed(input_ids=IDS, adapter_names=NAMES)
    mixed.eval().merge_adapter(["a"])
    with pytest.raises(ValueError, match="when there are merged adapters"):
        mixed(input_ids=IDS, adapter_names=NAMES)
    layers = [m for m in mixed.modules() if isinstance(m, adapters.layer.AdapterLayer)]
    assert layers
    assert not any(one._forward_pre_hooks for one in layers)


def test_a_forward_pass_does_not_walk_the_modules_of_the_model(
    mixed: PeftModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    walked = []
    modules = nn.Module.modules

    def walk(module: nn.Module) -> Iterator[nn.Module]:
        walked.append(module)
        return modules(module)

    monkeypatch.setattr(nn.Module, "modules", walk)
    with torch.no_grad():
        mixed(input_ids=IDS, adapter_names=NAMES)
    assert not any(module in (mixed, mixed.base_model) for module in walked)


def test_a_layer_of_rows(perturb: Callable) -> None:
    """Against the equation, on a layer that sees no second dimension."""
    net = nn.Sequential(nn.Linear(30, 24)).double()
    wrapped = get_peft_model(net, TeraConfig(target_modules=["0"], init_weights=False))
    wrapped.add_adapter("other", TeraConfig(target_modules=["0"], init_weights=False))
    wrapped.double().eval()
    adapted = net[0]
    x = torch.randn(3, 30, dtype=torch.float64)
    outputs = wrapped(x, adapter_names=["other", "default", "other"])
    for example, name in enumerate(["other", "default", "other"]):
        weight = adapted.base_layer.weight + adapted.get_delta_weight(name)
        expected = weight @ x[example] + adapted.base_layer.bias
        torch.testing.assert_close(outputs[example], expected, rtol=0, atol=1e-12)
    assert wrapped(x[:0], adapter_names=[]).shape == (0, 24)
