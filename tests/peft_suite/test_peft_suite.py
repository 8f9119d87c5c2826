"""PEFT's own test-suite, run against TeRA.

`make venv` has fetched the tests of the installed version (`fetch.py`). The lists of configurations
that they are parametrized with are replaced by ours; their classes are collected here, without the
tests that do not use those lists (they are about other methods, and need the Hub). Each test runs
with some of the configurations, in `make soak` with all.
"""

import importlib
import math
import sys
import types
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from peft import PeftConfig
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from tera_pl.adapters import (
    LoraXsConfig,
    LorettaConfig,
    LotrConfig,
    MoraConfig,
    NolaConfig,
    TeraConfig,
)
from tests.peft_suite.fetch import FOLDER
from tests.soak import SOAK

pytestmark = pytest.mark.slow

# Folders in the current directory of these tests. Not named after their architectures, by which
# PEFT tells what other methods cannot do.
LLAMA, GPT2 = "tiny-linear", "tiny-conv1d"

# The sizes of the layers of PEFT's models: lin0 10 -> 20, lin1 20 -> 2, conv1d 5 -> 1.
VARIANTS = {
    "out split": {"out_modes": 2, "in_modes": 1},
    "in split": {"out_modes": 1, "in_modes": 2},
    "both split": {"out_modes": 2, "in_modes": 2},
    "neither split": {"out_modes": 1, "in_modes": 1},
    "order 3": {"out_modes": 3, "in_modes": 2},
    "reduced ranks": {"out_modes": [4, 5], "in_modes": [10], "ranks": [3, 4, 6]},
    "identity factors": {"factor_init": "identity"},
    "rademacher core": {"core_init": "rademacher"},
    "orthogonal": {"core_init": "orthogonal", "factor_init": "orthogonal"},
}
LIN1 = {"out_modes": [2], "in_modes": [4, 5]}  # 20 -> 2
BOTH = {"target_modules": ["lin0", "lin1"], "modes_pattern": {"lin1": LIN1}}
LIN01 = {"target_modules": ["lin0", "lin1"]}
SAVED = {"target_modules": ["lin0"], "modules_to_save": ["lin1"]}
# The official start is not zero, which PEFT's tests take for granted. Their learning rate of 0.5
# makes a product of five cores diverge, so the update is scaled down.
ZERO = {"start": "zero", "alpha": 0.1}
LORETTA_CASES = [
    ("LoRETTA", "MLP", LorettaConfig, {"target_modules": "lin0", **ZERO}),
    ("LoRETTA lin1", "MLP", LorettaConfig, {"target_modules": ["lin1"], "r": 2, **ZERO}),
    ("LoRETTA two targets", "MLP", LorettaConfig, {**LIN01, "in_modes": 2, **ZERO}),
    ("LoRETTA modules_to_save", "MLP", LorettaConfig, {**SAVED, **ZERO}),
    ("LoRETTA exclude", "MLP", LorettaConfig, {**LIN01, "exclude_modules": ["lin1"], **ZERO}),
    ("LoRETTA Conv1D", "EmbConv1D", LorettaConfig, {"target_modules": ["conv1d"], "start": "zero"}),
]
MORA_CASES = [
    ("MoRA", "MLP", MoraConfig, {"target_modules": "lin0"}),
    ("MoRA lin1", "MLP", MoraConfig, {"target_modules": ["lin1"], "r": 1}),
    ("MoRA two targets", "MLP", MoraConfig, {**LIN01, "r_hat": 4}),
    ("MoRA sharing", "MLP", MoraConfig, {**LIN01, "r": 2, "form": "sharing"}),
    ("MoRA modules_to_save", "MLP", MoraConfig, SAVED),
    ("MoRA exclude_modules", "MLP", MoraConfig, {**LIN01, "exclude_modules": ["lin1"]}),
    ("MoRA Conv1D", "EmbConv1D", MoraConfig, {"target_modules": ["conv1d"]}),
]
LOTR_CASES = [
    ("LoTR", "MLP", LotrConfig, {"target_modules": "lin0"}),
    ("LoTR lin1", "MLP", LotrConfig, {"target_modules": ["lin1"], "r": 2}),
    # PEFT trains at a rate of 0.5, which standard normal factors on two layers do not stand.
    ("LoTR two targets", "MLP", LotrConfig, {**LIN01, "r": 4, "alpha": 0.1}),
    ("LoTR modules_to_save", "MLP", LotrConfig, SAVED),
    ("LoTR exclude_modules", "MLP", LotrConfig, {**LIN01, "exclude_modules": ["lin1"]}),
    ("LoTR Conv1D", "EmbConv1D", LotrConfig, {"target_modules": ["conv1d"]}),
]
# PEFT's tests take a start at zero for granted.
LORA_XS_CASES = [
    ("LoRA-XS", "MLP", LoraXsConfig, {"target_modules": "lin0", "r": 4, "init_std": 0.0}),
    ("LoRA-XS two targets", "MLP", LoraXsConfig, {**LIN01, "r": 2, "init_std": 0.0}),
    ("LoRA-XS modules_to_save", "MLP", LoraXsConfig, {**SAVED, "r": 3, "init_std": 0.0}),
    (
        "LoRA-XS Conv1D",
        "EmbConv1D",
        LoraXsConfig,
        {"target_modules": ["conv1d"], "r": 1, "init_std": 0.0},
    ),
]
NOLA_CASES = [
    ("NOLA", "MLP", NolaConfig, {"target_modules": "lin0", "r": 4, "k": 20}),
    ("NOLA two targets saved", "MLP", NolaConfig, {**LIN01, "k": 9, "save_frozen": True}),
    ("NOLA modules_to_save", "MLP", NolaConfig, {**SAVED, "r": 3, "k": 10}),
    ("NOLA Conv1D", "EmbConv1D", NolaConfig, {"target_modules": ["conv1d"], "k": 5}),
]
CUSTOM_CASES = [
    *NOLA_CASES,
    *LORA_XS_CASES,
    *LORETTA_CASES,
    *MORA_CASES,
    *LOTR_CASES,
    *(
        (f"MLP {name}", "MLP", TeraConfig, {"target_modules": "lin0", **settings})
        for name, settings in VARIANTS.items()
    ),
    ("MLP lin1", "MLP", TeraConfig, {"target_modules": ["lin1"], **LIN1}),
    ("MLP two targets", "MLP", TeraConfig, BOTH),
    ("MLP two targets saved", "MLP", TeraConfig, {**BOTH, "save_frozen": True}),
    (
        "MLP modules_to_save",
        "MLP",
        TeraConfig,
        {"target_modules": ["lin0"], "modules_to_save": ["lin1"]},
    ),
    (
        "MLP exclude_modules",
        "MLP",
        TeraConfig,
        {"target_modules": ["lin0", "lin1"], "exclude_modules": ["lin1"]},
    ),
    (
        "Conv1D",
        "EmbConv1D",
        TeraConfig,
        {"target_modules": ["conv1d"], "out_modes": 1, "in_modes": 1},
    ),
]
LIN0 = {"target_modules": ["lin0"], "init_weights": False}
MULTIPLE_CASES = [
    ("TeRA same", "tera", TeraConfig, LIN0, LIN0),
    ("TeRA other layer", "tera", TeraConfig, LIN0, {**LIN0, "target_modules": ["lin1"], **LIN1}),
    ("TeRA other seed", "tera", TeraConfig, LIN0, {**LIN0, "seed": 1}),
    (
        "TeRA other modes",
        "tera",
        TeraConfig,
        {**LIN0, "out_modes": 1},
        {**LIN0, "out_modes": 3, "ranks": [2, 2, 4, 7]},
    ),
]
LIN1_ONLY = {**LIN0, "target_modules": ["lin1"]}
MULTIPLE_CASES += [
    ("LoRETTA same", "loretta", LorettaConfig, LIN0, LIN0),
    ("LoRETTA other layer", "loretta", LorettaConfig, LIN0, LIN1_ONLY),
    ("LoRETTA other rank", "loretta", LorettaConfig, LIN0, {**LIN0, "r": 3, "tensor_rank": 2}),
    ("MoRA same", "mora", MoraConfig, LIN0, LIN0),
    ("MoRA other layer", "mora", MoraConfig, LIN0, LIN1_ONLY),
    ("MoRA other form", "mora", MoraConfig, LIN0, {**LIN0, "r": 2, "form": "sharing"}),
    ("LoRA-XS same", "loraxs", LoraXsConfig, {**LIN0, "r": 4}, {**LIN0, "r": 4}),
    ("LoRA-XS other rank", "loraxs", LoraXsConfig, {**LIN0, "r": 4}, {**LIN0, "r": 2}),
    ("NOLA same", "nola", NolaConfig, {**LIN0, "k": 9}, {**LIN0, "k": 9}),
    ("NOLA other seed", "nola", NolaConfig, {**LIN0, "k": 9}, {**LIN0, "k": 5, "seed": 1}),
    ("LoTR same", "lotr", LotrConfig, LIN0, LIN0),
    ("LoTR other layer", "lotr", LotrConfig, LIN0, LIN1_ONLY),
    ("LoTR other rank", "lotr", LotrConfig, LIN0, {**LIN0, "r": 3, "alpha": 2.0}),
]
DECODER_CASES = [
    (TeraConfig, {"task_type": "CAUSAL_LM", "target_modules": None, **settings})
    for settings in (
        {"out_modes": 2, "in_modes": 1},
        {"out_modes": 2, "in_modes": 3, "compute": "factored", "zero_vector": 0},
        {"out_modes": 1, "in_modes": 1, "factor_init": "identity"},
        {"core_init": "rademacher", "factor_init": "orthogonal", "compute": "materialized"},
        {"dropout": 0.1, "save_frozen": True},
    )
]
DECODER_CASES += [
    (config, {"task_type": "CAUSAL_LM", "target_modules": None, **settings})
    for config, settings in (
        (LorettaConfig, {"r": 4, **ZERO}),
        (LorettaConfig, {"r": 2, "tensor_rank": 3, "dropout": 0.1, **ZERO}),
        (MoraConfig, {"r": 2}),
        (MoraConfig, {"r": 2, "form": "sharing", "dropout": 0.1}),
        (LoraXsConfig, {"r": 8, "scaling": 10.0, "dropout": 0.1, "init_std": 0.0}),
        (NolaConfig, {"r": 2, "k": 30, "dropout": 0.1}),
        (LotrConfig, {"r": 4}),
        (LotrConfig, {"r": 2, "alpha": 4.0, "share": "name"}),
    )
]

# Two adapters for `TestMixedAdapterBatches`, whose other tests have LoRA's configurations inside.
MIXED_CASES = [
    (f"{config.__name__} {name}", config(**LIN0), config(**{**LIN0, **other}))
    for config, name, other in (
        (TeraConfig, "same", {}),
        (TeraConfig, "scaled", {"scaling": 0.5}),
        (TeraConfig, "other seed", {"seed": 1}),
        (TeraConfig, "other modes", {"out_modes": 1, "in_modes": 2}),
        (TeraConfig, "other layer", {"target_modules": ["lin1"], **LIN1}),
        (TeraConfig, "overlapping", {**BOTH}),
        (LorettaConfig, "other rank", {"r": 3, "tensor_rank": 2}),
        (MoraConfig, "other rank", {"r": 2}),
        (LotrConfig, "other rank", {"r": 3}),
    )
]
MIXED_CASES.append(
    ("TeraConfig modules_to_save", *(TeraConfig(**SAVED, init_weights=False) for _ in range(2)))
)


def _only(suite: type, *lists: list) -> type:
    """The class without tests that none of the lists parametrizes, and with fewer cases each."""
    tests: dict[str, Any] = {name: None for name in dir(suite) if name.startswith("test_")}
    chosen = [name for name in sorted(tests) if _marks(getattr(suite, name), lists)]
    turns = len(chosen) // 2 if any(isinstance(one[0], str) for one in lists) else len(chosen)
    for number, name in enumerate(chosen):
        test = getattr(suite, name)
        marks = list(test.pytestmark)
        for mark in _marks(test, lists):
            cases = mark.args[1]
            cases = cases if SOAK else _some(cases, number, turns, len(chosen))
            fewer = pytest.mark.parametrize(mark.args[0], cases, **mark.kwargs).mark
            marks[marks.index(mark)] = fewer
        tests[name] = types.FunctionType(
            test.__code__, test.__globals__, name, test.__defaults__, test.__closure__
        )
        tests[name].__dict__.update(test.__dict__, pytestmark=marks)
    return type(suite.__name__, (suite,), tests)


def _marks(test: Any, lists: tuple[list, ...]) -> list:
    """Give the marks that parametrize a test with one of the lists."""
    marks = [mark for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]
    return [mark for mark in marks if any(mark.args[1] is one for one in lists)]


def _some(cases: list, number: int, turns: int, tests: int) -> list:
    """Of each method's cases a sixth, and one of the models: others for every test of PEFT's.

    Every test meets every method, and every case meets every class of tests.

    Args:
        cases: The cases of all methods, or the models.
        number: The number of the test among those of its class.
        turns: How often the choice changes in the class, half as often where models alternate.
        tests: How many tests the class has.
    """
    if all(isinstance(case, str) for case in cases):
        return [cases[number % len(cases)]]
    methods: dict[type, list] = {}
    for case in cases:
        (method, *_) = [v if isinstance(v, type) else type(v) for v in case if _is_config(v)]
        methods.setdefault(method, []).append(case)
    chosen = []
    for group in methods.values():
        take = math.ceil(len(group) / min(6, turns))
        start = number * turns // tests * take
        chosen += [group[(start + i) % len(group)] for i in range(take)]
    return chosen


def _is_config(value: object) -> bool:
    return isinstance(value, PeftConfig) or (
        isinstance(value, type) and issubclass(value, PeftConfig)
    )


def test_peft_suite_is_available() -> None:
    assert (FOLDER / "peft_tests").is_dir(), "PEFT's tests are fetched by `make venv`"


def test_every_case_meets_every_class() -> None:
    for suite, *lists in (
        (TestPeftCustomModel, CUSTOM_CASES),
        (TestPeftFsdpStateDict, CUSTOM_CASES),
        (TestMultipleActiveAdapters, MULTIPLE_CASES),
        (TestMixedAdapterBatches, MIXED_CASES),
        (TestDecoderModels, [LLAMA, GPT2], DECODER_CASES),
    ):
        tests = [test for name, test in vars(suite).items() if name.startswith("test_") and test]
        met = [case for test in tests for mark in test.pytestmark for case in mark.args[1]]
        assert [case for cases in lists for case in cases if case not in met] == []


if (FOLDER / "peft_tests").is_dir():
    sys.path.insert(0, str(FOLDER))
    pytest.register_assert_rewrite("peft_tests")
    custom = importlib.import_module("peft_tests.test_custom_models")
    decoder = importlib.import_module("peft_tests.test_decoder_models")
    common = importlib.import_module("peft_tests.testing_common")
    custom.TEST_CASES[:] = CUSTOM_CASES
    custom.MULTIPLE_ACTIVE_ADAPTERS_TEST_CASES[:] = MULTIPLE_CASES
    custom.MIXED_ADAPTER_TEST_CASES[:] = MIXED_CASES
    decoder.PEFT_DECODER_MODELS_TO_TEST[:] = [LLAMA, GPT2]
    decoder.ALL_CONFIGS[:] = DECODER_CASES
    TestPeftCustomModel = _only(custom.TestPeftCustomModel, custom.TEST_CASES)
    TestPeftFsdpStateDict = _only(custom.TestPeftFsdpStateDict, custom.TEST_CASES)
    TestMultipleActiveAdapters = _only(
        custom.TestMultipleActiveAdapters, custom.MULTIPLE_ACTIVE_ADAPTERS_TEST_CASES
    )
    TestMixedAdapterBatches = _only(custom.TestMixedAdapterBatches, custom.MIXED_ADAPTER_TEST_CASES)
    TestDecoderModels = _only(
        decoder.TestDecoderModels, decoder.PEFT_DECODER_MODELS_TO_TEST, decoder.ALL_CONFIGS
    )


@pytest.fixture(scope="module")
def decoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that has the two language models."""
    folder = tmp_path_factory.mktemp("decoders")
    torch.manual_seed(0)
    common = {"vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    LlamaForCausalLM(
        LlamaConfig(
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            **common,
        )
    ).save_pretrained(folder / LLAMA)
    GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, **common)).save_pretrained(
        folder / GPT2
    )
    return folder


@pytest.fixture(autouse=True)
def _offline(decoders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(decoders)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.fixture(autouse=True)
def _methods_that_mix(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """PEFT mixes LoRA only; in these tests ours is what they take for it."""
    if "mixed_adapter_batches" in request.node.name and "config_cls" in request.fixturenames:
        for module in (decoder, common):
            monkeypatch.setattr(module, "LoraConfig", request.getfixturevalue("config_cls"))
