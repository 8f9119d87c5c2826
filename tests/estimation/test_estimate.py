"""Estimates agree with real runs, and need no weights, data or accelerator."""

import json
import re

import pytest
import yaml
from torch.profiler import ProfilerActivity, profile
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from tera_pl.__main__ import main
from tera_pl.callbacks import ResourceMonitor
from tera_pl.cli import main as fit
from tests.conftest import ROOT, WORDS

pytestmark = pytest.mark.slow

LENGTH, BATCH = 128, 6
TARGETS = {"target_modules": ["q_proj", "v_proj"]}
LORA = {"class_path": "peft.LoraConfig", "init_args": {"r": 4, "lora_dropout": 0.1, **TARGETS}}
PROMPT = {"class_path": "peft.PromptTuningConfig", "init_args": {"num_virtual_tokens": 9}}
TERA = {"class_path": "tera_pl.adapters.TeraConfig", "init_args": TARGETS}
KRONECKER = {**TERA, "init_args": {**TARGETS, "core_init": "kronecker", "factor_init": "kronecker"}}


@pytest.fixture(scope="module")
def backbone(tiny_backbone, tmp_path_factory):
    """Large enough that a step's tensors are the greatest part of its memory."""
    folder = tmp_path_factory.mktemp("backbone")
    AutoTokenizer.from_pretrained(tiny_backbone).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=2000,
        hidden_size=128,
        intermediate_size=344,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def write(backbone, tiny_config, tmp_path, monkeypatch):
    """Write a configuration in which every example has all the tokens it may have."""
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "data" / "openbookqa"
    data.mkdir(parents=True)
    record = {
        "instruction": f"{WORDS} " * 5,
        "input": "",
        "output": "the correct answer is answer1",
        "answer": "answer1",
    }
    for split, number in (("train", 200), ("test", 4)):
        (data / f"{split}.json").write_text(json.dumps([record] * number))

    def write(adapter, precision="32-true", **settings):
        config = yaml.safe_load(tiny_config.read_text())
        config["trainer"]["precision"] = precision
        model, data = (config[key]["init_args"] for key in ("model", "data"))
        model["adapter"] = adapter
        model["backbone"] |= {"path": str(backbone)} | settings
        data |= {"path": str(tmp_path / "data"), "batch_size": BATCH}
        data["encoding"] = {
            "tokenize": "joint",
            "loss_on": "all",
            "max_length": LENGTH,
            "allow_truncated_responses": True,
        }
        config["trainer"] |= {"max_steps": 3, "val_check_interval": 3, "limit_val_batches": 0}
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        return path

    return write


def estimate(capsys, path, *options):
    assert main(["estimate", "--config", str(path), "--json", *options]) == 0
    return json.loads(capsys.readouterr().out)


def measured_peak(path, monkeypatch):
    """Most bytes that torch's allocator held during three steps of `fit`, without the weights.

    By torch's profiler, which writes down every allocation and every release.
    """
    profiler = profile(activities=[ProfilerActivity.CPU], profile_memory=True)

    def start(self, trainer, module, batch, index):
        assert batch["attention_mask"].shape == (BATCH, LENGTH)
        assert batch["attention_mask"].all()
        if index == 0:
            profiler.start()

    def end(self, trainer, module, outputs, batch, index):
        if index == 2:
            profiler.stop()

    with monkeypatch.context() as patch:
        patch.setattr(ResourceMonitor, "on_train_batch_start", start)
        patch.setattr(ResourceMonitor, "on_train_batch_end", end)
        assert fit(["fit", "--config", str(path)]) == 0
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


@pytest.mark.parametrize(
    ("adapter", "settings"),
    [
        (TERA, {"attn_implementation": "packed_sdpa"}),
        (TERA, {"dtype": "bfloat16", "gradient_checkpointing": True}),
        (KRONECKER, {"attn_implementation": "packed_sdpa"}),
        (LORA, {"attn_implementation": "eager"}),
        (LORA, {"attn_implementation": "packed_sdpa", "gradient_checkpointing": True}),
        (PROMPT, {"gradient_checkpointing": True}),
        (None, {"attn_implementation": "packed_sdpa"}),
        (None, {"attn_implementation": "packed_sdpa", "precision": "bf16-mixed"}),
        (None, {"gradient_checkpointing": True, "precision": "bf16-mixed"}),
    ],
    ids=[
        "tera",
        "tera in 16 bits",
        "kronecker",
        "lora, eager",
        "lora, checkpointing",
        "prompt tuning",
        "full",
        "full, mixed",
        "full, mixed, checkpointing",
    ],
)
def test_memory_is_that_of_a_real_run(adapter, settings, write, capsys, monkeypatch):
    path = write(adapter, **settings)
    memory = estimate(capsys, path)["memory_bytes"]
    parts = ("activations", "logits", "gradients", "optimizer")
    expected = measured_peak(path, monkeypatch)
    assert sum(memory[part] for part in parts) == pytest.approx(expected, rel=0.05)
    assert memory["total"] == sum(value for part, value in memory.items() if part != "total")


def test_flops_are_those_of_the_products(write, capsys):
    found = estimate(capsys, write(LORA, attn_implementation="packed_sdpa"))
    width, kv, ff, vocab, layers, r = 128, 64, 344, 2000, 3, 4
    projections = layers * (2 * width * width + 2 * width * kv + 3 * width * ff)
    # Queries with keys, weights with values; both again and their two gradients in backward.
    attention = layers * 2 * LENGTH * width
    logits = vocab * width * (LENGTH - 1) / LENGTH  # no token follows the last
    base = 2 * 2 * (projections + logits) + 2 * attention + 2 * 5 / 2 * attention
    assert found["flops_per_token"]["base"] == pytest.approx(base, rel=1e-12)
    # Of each layer's two updates: forward, gradients of input and of weights. The input of the
    # first layer needs none: not through q, k and v, nor through the first factors of two updates.
    updates = 3 * 2 * layers * r * ((width + width) + (width + kv))
    unneeded = 2 * (width * width + 2 * width * kv) + 2 * 2 * r * width
    adapted = found["flops_per_token"]["adapted"]
    assert adapted == pytest.approx(base + updates - unneeded, rel=1e-12)


def test_kronecker_factors_are_counted_as_the_parts_they_are(write, capsys):
    dense, structured = (
        estimate(capsys, write(adapter, attn_implementation="packed_sdpa"))
        for adapter in (TERA, KRONECKER)
    )
    assert structured["flops_per_token"]["adapted"] < dense["flops_per_token"]["adapted"]
    # Beside what they are parts of: 128 = 8 x 16, 16 = 4 x 4 and 8 = 2 x 4. The first of the modes
    # 8 x 16 of q and 8 x 8 of v share a factor.
    factor = 8 * 8 + 16 * 16
    outs = (4 * 4 + 4 * 4) + 2 * (2 * 2 + 4 * 4)
    cores = (8 * 8 + 16 * 16) + (8 * 8 + 8 * 16)
    found = structured["counts"]["frozen_adapter"] - dense["counts"]["frozen_adapter"]
    assert found == factor + outs + cores


@pytest.mark.parametrize("settings", [{"load_in_4bit": True}, {"load_in_8bit": True}])
def test_quantized_weights_take_their_own_bytes_and_the_same_products(settings, write, capsys):
    pytest.importorskip("bitsandbytes")
    quantization = {"class_path": "transformers.BitsAndBytesConfig", "init_args": settings}
    plain = estimate(capsys, write(LORA))
    path = write(LORA, quantization=quantization)
    found = estimate(capsys, path)
    assert found["flops_per_token"] == plain["flops_per_token"]
    assert found["counts"]["base"] == plain["counts"]["base"]
    assert found["disk_bytes"]["base"] == plain["disk_bytes"]["base"]
    layers = 3 * (2 * 128 * 128 + 2 * 128 * 64 + 3 * 128 * 344)
    rest = 4 * (found["counts"]["base"] - layers)
    if "load_in_4bit" in settings:
        # Half a byte each, a float32 for every 64, and of every layer the 16 values of its type.
        expected = layers / 2 + 4 * layers / 64 + 3 * 7 * 16 * 4
    else:
        expected = layers + 3 * 4 * (3 * 128 + 2 * 64 + 2 * 344)  # a float32 for every row
    assert found["memory_bytes"]["base"] == rest + expected


def test_parameters_disk_space_and_overrides(write, capsys):
    path = write(LORA)
    found = estimate(capsys, path, "--batch", "2", "--length", "16", "--device_gb", "0.003")
    trained = 3 * 4 * ((128 + 128) + (128 + 64))
    assert found["counts"]["trained"] == trained
    assert found["disk_bytes"]["adapter"] == 4 * trained
    assert found["disk_bytes"]["checkpoint"] == pytest.approx(3 * 4 * trained, rel=0.01)
    assert found["disk_bytes"]["base"] == 4 * found["counts"]["base"]
    assert (found["batch_size"], found["length"], found["supervised_length"]) == (2, 16, 16)
    assert not found["fits"]
    halved = estimate(capsys, path, "--model.init_args.backbone.dtype=bfloat16")
    assert halved["memory_bytes"]["base"] == found["memory_bytes"]["base"] / 2
    assert halved["batch_size"] == BATCH
    assert halved["fits"]


@pytest.mark.parametrize("adapter", [TERA, None], ids=["tera", "full"])
def test_generation_takes_a_cache_for_every_beam(adapter, write, capsys):
    options = {
        "model.init_args.generation.num_beams": 4,
        "model.init_args.generation.max_new_tokens": 32,
        "data.init_args.eval_batch_size": 8,
    }
    arguments = [f"--{key}={value}" for key, value in options.items()]
    found = estimate(capsys, write(adapter), *arguments)
    memory, training = found["validation"]["memory_bytes"], found["memory_bytes"]
    layers, kv, width, number = 3, 64, 128, 4
    assert memory["cache"] == 2 * layers * kv * number * (8 * 4) * (LENGTH + 32)
    # Of q and v weight and update as one matrix each.
    cached = layers * (width * width + width * kv) * number
    assert memory["cached_delta_weights"] == (cached if adapter else 0)
    assert memory["training"] == training["gradients"] + training["optimizer"]
    # At least the scores of the last token in the type of the base, in float32 and as logarithms.
    assert memory["activations"] > 2 * (8 * 4) * 2000 * number
    assert memory["total"] == sum(value for part, value in memory.items() if part != "total")
    in_test = estimate(
        capsys, write(adapter), *arguments, "--model.init_args.generate_in_validation=false"
    )
    assert in_test["validation"]["stage"] == "test"
    assert in_test["validation"]["memory_bytes"]["training"] == 0


def test_run_fits_if_its_validation_does(write, capsys):
    path = write(TERA)
    found = estimate(capsys, path)
    needed = found["validation"]["memory_bytes"]["total"]
    assert needed > found["memory_bytes"]["total"]
    for share, fits in ((1.01, True), (0.99, False)):
        assert estimate(capsys, path, f"--device_gb={share * needed / 1e9}")["fits"] == fits


def test_scoring_candidates_generates_nothing(write, capsys):
    arguments = ["--model.init_args.metric=tera_pl.metrics.ChoiceLikelihood"]
    path = write(TERA)
    found = estimate(capsys, path, *arguments, "--checkpoint.monitor=val/loss")
    assert found["validation"] is None
    needed = found["memory_bytes"]["total"]
    for share, fits in ((1.01, True), (0.99, False)):
        limit = f"--device_gb={share * needed / 1e9}"
        assert estimate(capsys, path, *arguments, limit)["fits"] == fits


def test_memory_grows_with_the_batch(write, capsys):
    path = write(TERA)
    one, four = (estimate(capsys, path, "--batch", n)["memory_bytes"] for n in ("1", "4"))
    assert four["logits"] == 4 * one["logits"]
    assert four["base"] == one["base"]


def test_only_responses_are_supervised_where_they_are_limited(write, capsys):
    path = write(TERA)
    key = "--data.init_args.encoding"
    options = (
        f"{key}.loss_on=response",
        f"{key}.tokenize=separate",
        f"{key}.max_response_length=16",
    )
    assert estimate(capsys, path, *options)["supervised_length"] == 16


def test_shipped_configuration_without_weights_data_or_accelerator(tmp_path, capsys, monkeypatch):
    config = LlamaConfig(vocab_size=128256, intermediate_size=14336, num_key_value_heads=8)
    config.save_pretrained(tmp_path / "llama3")
    monkeypatch.chdir(tmp_path)
    path = ROOT / "configs" / "commonsense170k" / "llama3_8b" / "tera.yaml"
    options = ["--config", str(path), "--model.init_args.backbone.path", str(tmp_path / "llama3")]
    assert main(["estimate", *options]) == 0
    table = capsys.readouterr().out
    assert re.search(r"\n  base +16,060,522,496\n", table)
    assert re.search(r"\n  trained +268,288 +\(0.0033 %;", table)
    assert table.endswith("\nfits into 80 GB\n")
    assert [entry.name for entry in tmp_path.iterdir()] == ["llama3"]


def test_steps_on_accelerators_need_a_copy_of_what_is_trained(write, capsys):
    path = write(None, dtype="bfloat16")
    options = ("--batch", "1", "--length", "8", "--trainer.accelerator")
    one, copy = (estimate(capsys, path, *options, name) for name in ("cpu", "gpu"))
    trained = 2 * one["counts"]["trained"]
    # AdamW's two moments, and the roots of one of them for all tensors at once.
    assert copy["memory_bytes"]["optimizer"] == pytest.approx(3 * trained, rel=0.001)
    assert one["memory_bytes"]["optimizer"] < 3 * trained
    assert one["disk_bytes"] == copy["disk_bytes"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch", "0"], "--batch is 0: expected at least 1"),
        (["--length", "-1"], "--length is -1: expected at least 1"),
        (["--trainer.precision", "bf16-mixed"], "trainer.precision is bf16-mixed"),
        (
            ["--model.init_args.backbone.path", "/no/such/folder"],
            "model.init_args.backbone.path: no causal",
        ),
    ],
)
def test_user_errors_are_one_line(options, message, write, capsys):
    assert main(["estimate", "--config", str(write(TERA)), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("kind", "settings"), [("WaveFTConfig", {"n_frequency": 7}), ("TinyLoraConfig", {"u": 4})]
)
def test_layers_that_compute_with_values_are_refused_in_one_line(kind, settings, write, capsys):
    adapter = {"class_path": f"peft.{kind}", "init_args": settings | TARGETS}
    assert main(["estimate", "--config", str(write(adapter))]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"model.init_args.adapter: {kind} cannot be estimated" in error
    assert "Traceback" not in error
