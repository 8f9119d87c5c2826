"""The benchmark's arithmetic and its files; how long things take is not tested."""

import json
import time

import pytest
import torch

from tera_pl.__main__ import main
from tera_pl.benchmarking import mixed_batches, models
from tera_pl.benchmarking.timing import saved_bytes, time_interleaved

pytestmark = pytest.mark.slow


def test_ratios_are_taken_within_a_round(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    # The machine gets slower all the time; the warm-up calls do not count.
    seconds = {
        "baseline": iter([9, 1, 3, 4, 6, 8, 12, 16, 24]),
        "other": iter([9, 4, 15, 10, 80]),
    }

    def call(name):
        def run():
            clock[0] += next(seconds[name])

        return run

    timings = time_interleaved({n: call(n) for n in seconds}, "baseline", 4, torch.device("cpu"))
    assert (timings["baseline"].ratio, timings["baseline"].seconds) == (1, 7)
    # 4 / 2, 15 / 5, 10 / 10 and 80 / 20.
    assert timings["other"].ratio == 2.5
    assert (timings["other"].low, timings["other"].high) == (1.75, 3.25)


def test_saved_bytes_by_hand():
    layer = torch.nn.Linear(6, 5)
    inputs = torch.randn(7, 6, requires_grad=True)
    # The product keeps its input for the gradient of the weight, and the weight, which is own.
    assert saved_bytes(lambda: layer(inputs).sum().backward(), layer) == 4 * 7 * 6


def test_adapted_models_share_the_weights_of_the_base(monkeypatch):
    monkeypatch.setitem(models.SHAPES, "tiny", TINY)
    base = models.build_base("tiny", torch.device("cpu"), torch.float32)
    own = {p.data_ptr() for p in base.parameters()}
    for method in models.METHODS:
        adapted = models.adapt(base, method)
        frozen = {p.data_ptr() for p in adapted.parameters()}
        assert (own <= frozen) == (method != "full")
        assert any(p.requires_grad for p in adapted.parameters())
    assert not any(p.requires_grad for p in base.parameters())


TINY = {
    "hidden_size": 128,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
}


def test_command_writes_ratios_for_every_method(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(models.SHAPES, "tiny", TINY)
    monkeypatch.setattr(mixed_batches, "NUM_ADAPTERS", (1, 3))
    arguments = ["--shape", "tiny", "--tokens", "256", "--rounds", "3", "--output", str(tmp_path)]
    names = ["tera", "lora_r32", "prompt_tuning_20"]
    assert main(["benchmark", *arguments, "--device", "cpu", "--methods", *names]) == 0
    report = json.loads((tmp_path / "benchmark.json").read_text())
    several = ["1 adapters in a batch", "3 adapters in a batch"]
    parts = ["generation", *several, "step, 256 tokens", "forward, 256 tokens"]
    assert list(report["timings"]) == parts
    for part in parts:
        timed = ["frozen", *(names[:2] if part in several else names)]
        assert list(report["timings"][part]) == timed
        assert report["timings"][part]["frozen"]["ratio"] == 1
    assert report["memory_bytes"].keys() == {"frozen", *names}
    assert (tmp_path / "benchmark.md").read_text() in capsys.readouterr().out
    assert (tmp_path / "benchmark.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tokens", "100"], "expected multiples of 256"),
        (["--rounds", "1"], "--rounds is 1: expected at least 2"),
        (["--methods", "tera", "lore"], "--methods: lore unknown: expected tera, "),
    ],
)
def test_invalid_arguments_are_one_line(arguments, message, tmp_path, capsys):
    assert main(["benchmark", *arguments, "--output", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
