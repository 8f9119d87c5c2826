"""Two processes that share a frozen base (FSDP2, gloo) do what one does."""

import json

import pytest
import torch
import yaml
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from safetensors.torch import load_file

from tera_pl.distributed.strategy import ShardedStrategy, prepare_strategy
from tests.conftest import ROOT
from tests.distributed.test_processes import answers, run

pytestmark = pytest.mark.slow

LAYER = yaml.safe_load((ROOT / "configs" / "base" / "fsdp2.yaml").read_text())
SHARED = {
    "trainer.devices": 2,
    "trainer.strategy": LAYER["trainer"]["strategy"]["class_path"],
    **{
        f"trainer.strategy.{key}": str(value).lower()
        for key, value in LAYER["trainer"]["strategy"]["init_args"].items()
    },
}
NUM_TEST = 33  # batches of 8: three in one process and two in the other
SETTINGS = {
    "data.init_args.num_test": NUM_TEST,
    "data.init_args.num_train": 136,
    "data.init_args.encoding.loss_on": "all",
    "model.init_args.optimizer.init_args.lr": 0.02,
    "model.init_args.schedule.warmup_steps": 0,
    "model.init_args.schedule.name": "constant_with_warmup",
    "trainer.limit_val_batches": 1,
}
ONE = SETTINGS | {"data.init_args.batch_size": 16}
TWO = SETTINGS | SHARED | {"data.init_args.batch_size": 8}


def version(folder, number):
    return folder / "runs" / "quickstart" / f"version_{number}"


def read(path):
    return torch.load(path, map_location="cpu", weights_only=True)


def test_two_processes_train_save_resume_and_answer_as_one(tmp_path):
    run("fit", tmp_path, **ONE)
    run("fit", tmp_path, **(TWO | {"trainer.max_steps": 2}))
    one, two = version(tmp_path, 0), version(tmp_path, 1)
    longer = {
        "ckpt_path": two / "checkpoints" / "last.ckpt",
        "model.init_args.allow_changed": '["training.max_steps"]',
    }
    run("fit", tmp_path, **(TWO | longer))

    expected = load_file(one / "adapter" / "adapter_model.safetensors")
    found = load_file(two / "adapter" / "adapter_model.safetensors")
    assert found.keys() == expected.keys()
    assert any((value != value.round()).any() for value in expected.values())
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)

    ours, theirs = (read(folder / "checkpoints" / "last.ckpt") for folder in (two, one))
    assert shapes(ours["state_dict"]) == shapes(theirs["state_dict"])
    (ours,), (theirs,) = ours["optimizer_states"], theirs["optimizer_states"]
    assert ours["param_groups"] == theirs["param_groups"]
    for index, entries in theirs["state"].items():
        assert shapes(ours["state"][index]) == shapes(entries)

    best = two / "checkpoints" / "best.ckpt"
    run("test", tmp_path, **(TWO | {"ckpt_path": best}))
    shared = json.loads((two / "results.json").read_text())
    answered = answers(two)
    assert len(answered) == NUM_TEST
    for path in two.glob("predictions*"):
        path.unlink()
    run("test", tmp_path, **(ONE | {"ckpt_path": best}))
    alone = json.loads((two / "results.json").read_text())
    assert answers(two) == answered
    assert shared["test"]["scores"] == pytest.approx(alone["test"]["scores"], rel=1e-5)


def shapes(state):
    return {
        name: (type(value), tuple(value.shape), value.dtype)
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
    }


def test_strategies_that_a_configuration_may_name():
    assert prepare_strategy("ddp") == "ddp"
    assert type(prepare_strategy(ModelParallelStrategy())) is ShardedStrategy
    for older in ("fsdp", "fsdp_cpu_offload", FSDPStrategy()):
        with pytest.raises(ValueError, match=r"fsdp2\.yaml"):
            prepare_strategy(older)
    with pytest.raises(ValueError, match="tensor_parallel_size is 2"):
        prepare_strategy(ModelParallelStrategy(tensor_parallel_size=2))


def test_full_fine_tuning_with_shards_saves_full_tensors(tmp_path):
    """Without an adapter the trainable weights are sharded."""
    every = {"model.init_args.adapter": "null", "model.init_args.optimizer.init_args.lr": 1e-4}
    run("fit", tmp_path, **(ONE | every | {"trainer.max_steps": 2}))
    run("fit", tmp_path, **(TWO | every | {"trainer.max_steps": 2}))
    expected, found = (
        load_file(version(tmp_path, number) / "model" / "model.safetensors") for number in (0, 1)
    )
    base = load_file(ROOT / "datamodules" / "miniworld" / "base" / "model.safetensors")
    assert found.keys() == expected.keys()
    assert any((expected[name] - base[name].float()).abs().max() > 1e-5 for name in expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


def test_a_base_in_4_bits_is_sharded_too(tmp_path):
    backbone = "model.init_args.backbone"
    nf4 = {
        "trainer.max_steps": 2,
        f"{backbone}.dtype": "float32",
        f"{backbone}.quantization": "transformers.BitsAndBytesConfig",
        f"{backbone}.quantization.load_in_4bit": "true",
        f"{backbone}.quantization.bnb_4bit_quant_type": "nf4",
        f"{backbone}.quantization.bnb_4bit_use_double_quant": "true",
    }
    run("fit", tmp_path, **(ONE | nf4))
    run("fit", tmp_path, **(TWO | nf4))
    expected, found = (
        load_file(version(tmp_path, number) / "adapter" / "adapter_model.safetensors")
        for number in (0, 1)
    )
    assert found.keys() == expected.keys()
    assert any((value != value.round()).any() for value in expected.values())
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
