"""Frozen tensors of TeRA: one copy each, the same bits everywhere."""

import copy
from collections.abc import Callable

import pytest
import torch
from peft import PeftModel, get_peft_model, inject_adapter_in_model
from torch import nn

from tera_pl.adapters import TeraConfig
from tera_pl.adapters.tera import TeraLayer
from tera_pl.tensor import FrozenTensor, TensorNetwork, projection

QV = ["q_proj", "v_proj"]


def networks(model: nn.Module, adapter_name: str = "default") -> dict[str, TensorNetwork]:
    return {
        name.removeprefix("base_model.model."): module.get_tensor_network(adapter_name)
        for name, module in model.named_modules()
        if isinstance(module, TeraLayer) and adapter_name in module.tera_vectors
    }


def places(model: nn.Module) -> set[int]:
    """Addresses of all frozen tensors that layers use."""
    return {
        tensor.data_ptr()
        for network in networks(model).values()
        for tensor in (network.core, *network.factors)
    }


# q: core and 3 factors. v (24 -> 12): a core and 2 out factors of its own, the in factor of q.
NUM_TENSORS = 4 + 3
NUM_VALUES = (24 * 24 + 4 * 4 + 6 * 6 + 24 * 24) + (12 * 24 + 3 * 3 + 4 * 4)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model,
        lambda model: model.to(torch.float64),
        lambda model: model.bfloat16(),
        copy.deepcopy,
        lambda model: copy.deepcopy(model).half(),
    ],
    ids=["as it is", "to", "bfloat16", "deepcopy", "deepcopy and half"],
)
@pytest.mark.parametrize("inject", ["get_peft_model", "inject_adapter_in_model"])
def test_one_copy_however_many_layers(llama: Callable, change: Callable, inject: str) -> None:
    config = TeraConfig(target_modules=QV)
    model = llama()
    if inject == "get_peft_model":
        model = get_peft_model(model, config)
    else:
        model = inject_adapter_in_model(config, model)
    model = change(model)
    assert len(networks(model)) == 6
    assert len(places(model)) == NUM_TENSORS
    frozen = {id(m): m for m in model.modules() if isinstance(m, FrozenTensor)}
    assert sum(tensor.value.numel() for tensor in frozen.values()) == NUM_VALUES


def test_training_and_deleting_do_not_copy(llama: Callable, input_ids: torch.Tensor) -> None:
    model = get_peft_model(llama(), TeraConfig(target_modules=QV))
    before = places(model)
    model(input_ids, labels=input_ids).loss.backward()
    model.merge_adapter()
    model.unmerge_adapter()
    model.add_adapter("second", TeraConfig(target_modules=QV))
    assert places(model) == before
    second = networks(model, "second")
    assert {t.data_ptr() for n in second.values() for t in (n.core, *n.factors)} == before
    assert len({v.data_ptr() for n in second.values() for v in n.vectors}) == 18
    model.delete_adapter("default")
    assert len(networks(model, "second")) == 6


def test_adapters_of_other_seeds_and_shapes_live_side_by_side(
    llama: Callable, input_ids: torch.Tensor, perturb: Callable
) -> None:
    configs = {
        "default": TeraConfig(target_modules=QV),
        "seed": TeraConfig(target_modules=QV, seed=1),
        "larger": TeraConfig(target_modules=[*QV, "down_proj"], out_modes=3, in_modes=2),
    }
    together = get_peft_model(llama(), configs["default"])
    together.add_adapter("seed", configs["seed"])
    together.add_adapter("larger", configs["larger"])
    for name, config in configs.items():
        together.set_adapter(name)
        alone = get_peft_model(llama(), copy.deepcopy(config))
        perturb(alone)
        perturb(together)
        assert torch.equal(together(input_ids).logits, alone(input_ids).logits)


def bits(model: nn.Module, module: str) -> list[torch.Tensor]:
    network = networks(model)[module]
    return [network.core, *network.factors]


def test_bits_depend_on_neither_targets_nor_the_type_of_the_base(llama: Callable) -> None:
    name = "model.layers.1.self_attn.q_proj"
    alone = bits(get_peft_model(llama(), TeraConfig(target_modules=["q_proj"])), name)
    for targets in (QV, QV[::-1], ["down_proj", *QV], r".*layers\.1.*q_proj"):
        model = get_peft_model(llama(), TeraConfig(target_modules=targets))
        assert all(map(torch.equal, bits(model, name), alone))
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        model = get_peft_model(llama(dtype), TeraConfig(target_modules=QV))
        cast = [tensor.to(dtype) for tensor in alone]
        assert all(map(torch.equal, bits(model, name), cast))


def test_bits_do_not_depend_on_the_order_of_layers() -> None:
    def build(names: list[str]) -> nn.Module:
        sizes = {"q_proj": nn.Linear(24, 24), "v_proj": nn.Linear(24, 12)}
        model = nn.ModuleDict({name: sizes[name] for name in names})
        return get_peft_model(model, TeraConfig(target_modules=QV))

    one, other = build(QV), build(QV[::-1])
    for name in QV:
        assert all(map(torch.equal, bits(one, name), bits(other, name)))
    assert one.peft_config["default"].frozen_sha256 == other.peft_config["default"].frozen_sha256


@pytest.mark.parametrize("torch_seed", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_golden_hash(llama: Callable, dtype: torch.dtype, torch_seed: int) -> None:
    torch.manual_seed(torch_seed)
    model = get_peft_model(llama(dtype, torch_seed), TeraConfig(target_modules=QV))
    golden = "9b6d0b5b4ad4317b5f3acca6743b8d263888872dbad078922f85fb36fafaa83b"
    assert model.peft_config["default"].frozen_sha256 == golden


def test_an_adapter_made_under_inference_mode_can_be_trained(
    llama: Callable, input_ids: torch.Tensor
) -> None:
    model = llama(torch.bfloat16)
    with torch.inference_mode():
        model = get_peft_model(model, TeraConfig(target_modules=QV))
        model(input_ids)
    model(input_ids, labels=input_ids).loss.backward()


def test_low_cpu_mem_usage_shares_too(llama: Callable, tmp_path) -> None:
    get_peft_model(llama(), TeraConfig(target_modules=QV)).save_pretrained(tmp_path)
    model = PeftModel.from_pretrained(llama(), tmp_path, low_cpu_mem_usage=True)
    assert len(places(model)) == NUM_TENSORS
    assert not any(network.core.is_meta for network in networks(model).values())


@pytest.mark.parametrize("change", [lambda model: model, copy.deepcopy], ids=["as it is", "copy"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("compute", ["factored", "materialized"])
def test_layers_of_one_input_share_its_projection(
    llama: Callable,
    input_ids: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
    compute: str,
    checkpointing: bool,
    change: Callable,
) -> None:
    projected = []
    forward = projection._Projection.forward

    def count(ctx: object, inputs: torch.Tensor, network: TensorNetwork) -> torch.Tensor:
        projected.append(inputs.shape)
        return forward(ctx, inputs, network)

    monkeypatch.setattr(projection._Projection, "forward", staticmethod(count))
    config = TeraConfig(target_modules=QV, compute=compute, init_weights=False)
    model = change(get_peft_model(llama(), config)).train()
    if checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model(input_ids, labels=input_ids).loss.backward()
    # Once for query and value of three layers each. Checkpointing applies M again in the factored
    # path; in the materialized path each layer gets an input object of its own in backward.
    assert len(projected) == (6 if checkpointing else 3)
