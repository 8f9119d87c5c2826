"""Learning rates by one rule, against Adam and a low-rank update written out by hand."""

import math
from functools import partial

import numpy as np
import peft
import pytest
import torch

from tera_pl.__main__ import main
from tera_pl.analysis import learning_rates
from tera_pl.analysis.learning_rates import WeightChange, on_grid, rate_for, warmup_distance
from tests.conftest import ROOT

SHAPES = {"q": (6, 8), "v": (4, 8)}
ADAMW = partial(torch.optim.AdamW, lr=1.0, weight_decay=0.0)
LORA = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["q", "v"])


def adam(gradient, values, lr, steps, betas=(0.9, 0.999), eps=1e-8):
    """Adam (Kingma and Ba, 2015, Algorithm 1) in float64, for several arrays."""
    first = [np.zeros_like(v) for v in values]
    second = [np.zeros_like(v) for v in values]
    for step in range(1, steps + 1):
        for index, slope in enumerate(gradient(values)):
            first[index] = betas[0] * first[index] + (1 - betas[0]) * slope
            second[index] = betas[1] * second[index] + (1 - betas[1]) * slope**2
            mean = first[index] / (1 - betas[0] ** step)
            spread = np.sqrt(second[index] / (1 - betas[1] ** step))
            values[index] = values[index] - lr * mean / (spread + eps)
    return values


def test_change_is_that_of_adam_by_hand():
    change = WeightChange(LORA, SHAPES, ADAMW, std=0.05)
    distance, lr = 4.5, 0.01
    found = change.at(lr, distance)
    moved = size = 0.0
    for name in SHAPES:
        layer = change.model.base_model.model.get_submodule(name)
        start = {side: getattr(layer, f"lora_{side}")["default"] for side in "AB"}
        # `at` has trained the layer: A is as it was drawn in the list of starting values.
        positions = {id(p): index for index, p in enumerate(change.trainable)}
        A, B = (change.start[positions[id(start[s].weight)]].double().numpy() for s in "AB")
        assert not B.any()
        x, c = (t[name].double().numpy() for t in (change.inputs, change.coefficients))
        weight = layer.base_layer.weight.detach().double().numpy()
        slope = c.T @ x  # of the loss <c, x W^T>, with respect to W

        def gradient(values, slope=slope):
            A, B = values
            return [2.0 * B.T @ slope, 2.0 * slope @ A.T]  # scaling 4 / 2

        steps = learning_rates.STEPS
        A, B = adam(gradient, [A, B], lr * distance / steps, steps)
        probes = change.probes[name].double().numpy()
        moved += np.square(probes @ (2.0 * B @ A).T).sum()
        size += np.square(probes @ weight.T).sum()
    assert found == pytest.approx(math.sqrt(moved / size), rel=1e-4)
    # The next measurement starts where this one did.
    assert change.at(lr, distance) == found


@pytest.mark.parametrize(
    "method", [LORA, peft.IA3Config(target_modules=["q"], feedforward_modules=[])]
)
def test_change_is_the_ratio_of_frobenius_norms(method, monkeypatch):
    monkeypatch.setattr(learning_rates, "TOKENS", 4096)
    change = WeightChange(method, {"q": (6, 8)}, ADAMW, std=0.05)
    found = change.at(0.01, 4.5)
    with torch.no_grad():
        eye = torch.eye(8)
        adapted = change.model({"q": eye})["q"].T
        with change.model.disable_adapter():
            weight = change.model({"q": eye})["q"].T
    assert found == pytest.approx(float((adapted - weight).norm() / weight.norm()), rel=0.05)


def test_an_update_that_is_not_zero_at_the_start_counts_by_its_change():
    drawn = peft.LoraConfig(r=2, target_modules=["q"], init_lora_weights=False)
    change = WeightChange(drawn, {"q": (6, 8)}, ADAMW)
    assert change.at(1e-9, 1.0) < 1e-5


def test_rate_for_inverts_the_change():
    change = WeightChange(LORA, SHAPES, ADAMW)
    target = change.at(0.02, 4.5)
    rate = rate_for(lambda lr: change.at(lr, 4.5), target, guess=1e-4)
    assert rate == pytest.approx(0.02, rel=0.03)
    with pytest.raises(ValueError, match="no learning rate gives"):
        rate_for(lambda lr: 0.5, 1.0, guess=1.0)


def test_distance_is_that_of_the_schedule_that_runs_use():
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = get_scheduler("linear", optimizer, 10, 100)
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert sum(rates) == pytest.approx(warmup_distance(10))


@pytest.mark.parametrize(
    ("rate", "rounded"),
    [(0.0022, 0.003), (0.003, 0.003), (0.0012, 0.001), (0.0089, 0.01), (0.006, 0.01), (1.0, 1.0)],
)
def test_rates_are_rounded_by_their_logarithm(rate, rounded):
    assert on_grid(rate) == rounded


@pytest.mark.slow
def test_command_gives_the_reference_its_own_rate(capsys):
    folder = ROOT / "configs" / "miniature"
    names = ("lora", "prompt_tuning")
    paths = [str(folder / f"{name}.yaml") for name in names]
    assert main(["learning_rates", "--reference", paths[0], "--rate", "0.016", *paths]) == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()]
    found = {row[0].removeprefix("| "): row[1] for row in rows if len(row) > 3}
    assert set(names) < found.keys()
    assert float(found["lora"]) == pytest.approx(0.016, rel=0.03)
    assert found["prompt_tuning"] == "—"
    assert main(["learning_rates", "--reference", *paths[::-1]]) == 2
    assert "prompt_tuning.yaml has no weight update" in capsys.readouterr().err
