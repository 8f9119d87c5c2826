"""Every line of every shipped study fits its base model; counts and searches are as documented."""

import importlib
from functools import cache, reduce

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from tera_pl.analysis.accounting import count
from tera_pl.analysis.learning_rates import on_grid
from tera_pl.models.backbone import add_adapter
from tera_pl.studies.definition import LEARNING_RATE, read_study
from tests.config.composition import compose, merge
from tests.conftest import ROOT

CONFIGS = ROOT / "configs"
STUDIES = sorted(CONFIGS.rglob("study_*.yaml"))
TABLES = sorted(CONFIGS.glob("*/llama*/study_table*.yaml"))
BLOCKS = 32
# The sizes that the two papers on the base models print.
LLAMA = {
    "llama2_7b": {"num_key_value_heads": 32, "intermediate_size": 11008, "vocab_size": 32000},
    "llama3_8b": {"num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256},
}
SMOLLM2 = {
    "hidden_size": 576,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
    "vocab_size": 49152,
}
# Over 30 blocks, by hand as below: q_proj is 576 x 576 and v_proj 192 x 576.
SMOLLM2_TRAINED = {
    "tera": 30 * (24 + 24 + 576 + 12 + 16 + 576),
    "tera_identity": 30 * (24 + 24 + 576 + 12 + 16 + 576),
    "tera_recommended": 30 * (576 + 24 + 24 + 192 + 24 + 24),
    "vera": 30 * (576 + 256 + 192 + 256),
    "lora": 30 * (576 + 576 + 192 + 576),
    "hira_r1": 30 * (576 + 576 + 192 + 576),
    "ia3": 30 * (576 + 192),
    "road": 30 * (576 + 192),
    "beft": 30 * 192,  # v_proj alone
    "mora": 30 * (32**2 + 26**2),  # even sizes
}
# Those of docs/rivals.md, on ConvAI2 alone. VB-LoRA has one bank, Uni-LoRA one vector, for all
# layers.
BANKS = {"vblora": 32 * 64, "unilora": 36_864}
SMOLLM2_RIVALS = {
    "fourierft": 30 * 2 * 600,
    "waveft": 30 * 2 * 600,
    "c3a": 30 * (576 * 576 // 576 + 192 * 576 // 192),
    "tinylora": 30 * 2 * 4,
    "lora_xs": 30 * 2 * 25**2,
    "nola": 30 * 2 * 2 * 300,
    "vblora": 30 * 32 * (576 + 576 + 576 + 192) // 64 + BANKS["vblora"],
    "unilora": BANKS["unilora"],
}
# Trainable parameters over 32 blocks, worked out by hand from the shapes of q_proj and v_proj:
# r (in + out) for LoRA and HiRA, out + r for VeRA, the sum of modes for TeRA, tensor trains for
# LoRETTA.
TRAINED = {
    "llama2_7b": {
        "lora": 16_777_216,
        "hira_r32": 16_777_216,
        "hira_r1": 524_288,
        "vera": 278_528,
        "loretta": 315_392,
        "tera": 265_216,
    },
    "llama3_8b": {
        "lora": 13_631_488,
        "hira_r32": 13_631_488,
        "hira_r1": 425_984,
        "vera": 180_224,
        "loretta": 288_768,
        "tera": 172_032,
    },
}
# On Commonsense170k with Llama-3-8B the paper's 51 times fewer than HiRA r=32 need another one.
COMMONSENSE_TERA = {"llama2_7b": 265_216, "llama3_8b": 268_288}
METHODS = ["prompt_tuning", "p_tuning", "lora", "hira_r1", "hira_r32", "loretta", "vera", "tera"]
SEED_KEYS = {"tera": "seed", "vera": "projection_prng_key"}
PREFIX = "model.init_args.adapter.init_args."


def name(path):
    return str(path.relative_to(CONFIGS))


@cache
def architecture(folder):
    if folder in LLAMA:
        sizes = {"hidden_size": 4096, "num_attention_heads": 32}
        return LlamaConfig(num_hidden_layers=1, tie_word_embeddings=False, **sizes, **LLAMA[folder])
    if folder == "smollm2_135m":
        return LlamaConfig(num_hidden_layers=1, **SMOLLM2)
    config = AutoConfig.from_pretrained(ROOT / "datamodules" / "miniworld" / "base")
    config.num_hidden_layers = 1
    return config


def trained(folder, adapter):
    """Count what an adapter trains in one block, as `estimate` does."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(architecture(folder))
    return count(add_adapter(model, adapter)).trained


def build_adapter(given):
    module, _, kind = given["class_path"].rpartition(".")
    return getattr(importlib.import_module(module), kind)(**given["init_args"])


def adapter_of(path, values):
    """The adapter of a configuration with values of a study's line; null for full fine-tuning."""
    config = compose(path)
    for key, value in values.items():
        *above, last = key.split(".")
        place = reduce(dict.__getitem__, above, config)
        # Fields of an adapter may be at their defaults; its class refuses unknown ones.
        assert last in place or key.startswith(PREFIX), key
        config = merge(config, reduce(lambda inner, k: {k: inner}, [last, *above[::-1]], value))
    given = config["model"]["init_args"]["adapter"]
    return None if given is None else build_adapter(given)


@pytest.mark.parametrize("path", STUDIES, ids=name)
@pytest.mark.slow
def test_study_lines_fit_their_base(path):
    study = read_study(path)
    for line, entry in study.entries.items():
        values = entry.set | dict.fromkeys(entry.seed_keys, 7)
        adapter = adapter_of(path.parent / entry.config, values)
        if adapter is not None:
            for key in entry.seed_keys:
                assert getattr(adapter, key.removeprefix(PREFIX)) == 7
            assert trained(path.parent.name, adapter) > 0, line


@pytest.mark.parametrize("backbone", LLAMA)
@pytest.mark.parametrize("benchmark", ["commonsense170k", "convai2", "math10k"])
def test_tera_trains_the_fewest_where_the_paper_says_so(benchmark, backbone):
    expected = TRAINED[backbone]
    if benchmark == "commonsense170k":
        expected = expected | {"tera": COMMONSENSE_TERA[backbone]}
    folder = CONFIGS / benchmark / backbone
    found = {
        method: BLOCKS * trained(backbone, adapter_of(folder / f"{method}.yaml", {}))
        for method in expected
    }
    assert found == expected
    if benchmark != "commonsense170k":
        assert min(found, key=found.get) == "tera"
    for method in ("tera", "loretta"):
        header = (folder / f"{method}.yaml").read_text().partition("\nbase:")[0]
        assert f"{found[method]:,}" in header


@pytest.mark.parametrize("benchmark", ["commonsense170k", "convai2", "math10k"])
def test_headers_for_smollm2_have_the_counts_by_hand(benchmark):
    folder = CONFIGS / benchmark / "smollm2_135m"
    found = {}
    for path in folder.glob("[!s]*"):
        bank = BANKS.get(path.stem, 0)
        found[path.stem] = 30 * (trained(folder.name, adapter_of(path, {})) - bank) + bank
    rivals = SMOLLM2_RIVALS if benchmark == "convai2" else {}
    assert found == SMOLLM2_TRAINED | rivals | {"loretta": found["loretta"]}
    for method, count_ in found.items():
        header = (folder / f"{method}.yaml").read_text().partition("\nbase:")[0]
        assert f"{count_:,} parameters" in header.replace("\n# ", " ")


def test_llama_2_tensorizations_have_the_papers_counts():
    """The x positions of Fig. 4: one dimension in equal modes, both, and neither."""
    path = CONFIGS / "commonsense170k" / "llama2_7b" / "study_ablations.yaml"
    expected = {
        "out out_modes=1": 524_288,
        "out out_modes=2": 270_336,
        "out out_modes=3": 265_216,
        "out out_modes=4": 264_192,
        "out out_modes=6": 263_680,
        "in in_modes=3": 265_216,
        "both out_modes=2 in_modes=2": 16_384,
        "both out_modes=4 in_modes=4": 4_096,
        "both out_modes=6 in_modes=6": 3_072,
    }
    study = read_study(path)
    found = {
        line: BLOCKS
        * trained("llama2_7b", adapter_of(path.parent / "tera.yaml", study.entries[line].set))
        for line in expected
    }
    assert found == expected


def configured_rate(path):
    return reduce(dict.__getitem__, LEARNING_RATE.split("."), compose(path))


def test_every_table_has_a_study_for_both_base_models():
    expected = {
        f"{benchmark}/{backbone}/study_table{table}.yaml"
        for backbone in LLAMA
        for benchmark, table in (("commonsense170k", 2), ("convai2", 3), ("math10k", 4))
    }
    assert {name(path) for path in TABLES} == expected


@pytest.mark.parametrize("path", TABLES, ids=name)
def test_studies_of_tables_search_alike_and_draw_everything_five_times(path):
    study = read_study(path)
    assert list(study.entries) == METHODS
    assert study.seeds == [0, 1, 2, 3, 4]
    for method, entry in study.entries.items():
        assert entry.config == f"{method}.yaml"
        assert entry.set == {}
        rate = configured_rate(path.parent / entry.config)
        assert entry.learning_rates == [on_grid(rate * by) for by in (0.1, 0.3, 1, 3, 10)]
        seed_keys = [PREFIX + SEED_KEYS[method]] if method in SEED_KEYS else []
        assert entry.seed_keys == seed_keys


@pytest.mark.parametrize(
    "path", sorted(CONFIGS.glob("commonsense170k/*/study_ablations.yaml")), ids=name
)
def test_studies_of_tensorizations_search_the_rate_of_each(path):
    study = read_study(path)
    rate = configured_rate(path.parent / "tera.yaml")
    for line, entry in study.entries.items():
        searched = line.split()[0] in ("out", "in", "both")
        by = (0.1, 0.3, 1, 3, 10) if searched else (1,)
        assert (entry.learning_rates or study.learning_rates) == [on_grid(rate * b) for b in by]
