"""Print how much of LoRA's trained update the vector at zero of TeRA can express.

    python docs/smollm2_study/expressed.py FOLDER ADAPTER

FOLDER is as for gradient.py, ADAPTER the folder `adapter` of a run of LoRA in a folder of the
study. With all other vectors at one, TeRA's update is linear in the vector d that starts at zero:
sum_r d_r u_r v_r. It is fitted to LoRA's update W of every layer by the outputs, min E ||W x -
DeltaW(d) x||^2, over the inputs x of some training records under the base model. The columns: the
share of E ||W x||^2 that is left, in the mean over the layers, and the validation loss with the
fitted updates.
"""

import sys
from collections.abc import Iterable
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from constant_part import BACKBONE, add_update, dataset_of, validation_loss
from gradient import datamodule, run, training_batches
from peft import PeftModel
from torch import Tensor, nn

from tera_pl.analysis.delta_weights import iter_delta_weights
from tera_pl.models.backbone import load_model
from tera_pl.tasks.loss import supervised_loss
from tera_pl.tensor import CoreInit, FactorInit, draw, network_keys, plan_modes

# By row of the study: number of out and in modes, and distribution of the factors.
ROWS: dict[str, tuple[int, int, FactorInit]] = {
    "tera": (2, 1, "normal"),
    "tera_identity": (2, 1, "identity"),
    "in2_identity": (1, 2, "identity"),
}


def directions(
    rows: int,
    columns: int,
    out_modes: int,
    in_modes: int,
    factor_init: FactorInit,
    core_init: CoreInit = "normal",
) -> tuple[Tensor, Tensor]:
    """The u_r as columns and the v_r as rows, of shapes (rows, R) and (R, columns)."""
    modes = plan_modes(rows, out_modes), plan_modes(columns, in_modes)
    core, factors = network_keys(*modes, [*modes[0], *modes[1]], 0, core_init, factor_init)
    drawn = [draw(key).double() for key in factors]
    left = reduce(torch.kron, [factor.T.contiguous() for factor in drawn[:out_modes]])
    right = reduce(torch.kron, drawn[out_modes:])
    unfolded = draw(core).double().reshape(rows, columns)
    # The vector at zero is the longest one, here that of the only mode of a side.
    return (left @ unfolded, right) if in_modes == 1 else (left, unfolded @ right)


def metric(squares: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """The matrix M with sum over the inputs x of ||DeltaW(d) x||^2 = d^T M d, shape (R, R)."""
    return (left.T @ left) * (right @ squares @ right.T)


def fit(update: Tensor, squares: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """The update nearest to another by its outputs, for inputs with these second moments."""
    normal = metric(squares, left, right)
    target = (left.T @ update @ squares * right).sum(1)
    return left @ (torch.linalg.lstsq(normal, target.unsqueeze(1)).solution * right)


def second_moments(model: nn.Module, names: list[str], batches: Iterable[Any]) -> dict[str, Tensor]:
    """The sums of x x^T over the inputs x of layers."""
    sums: dict[str, Tensor] = {}

    def add(name: str, inputs: Tensor) -> None:
        rows = inputs.flatten(0, -2).float()
        sums[name] = sums.get(name, 0) + (rows.T @ rows).double()

    hooks = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, inputs, name=name: add(name, inputs[0])
        )
        for name in names
    ]
    for batch in batches:
        supervised_loss(model, batch)
    for hook in hooks:
        hook.remove()
    return sums


@torch.no_grad()
def main(folder: Path, adapter: Path) -> None:
    """Print a row for each method."""
    dataset = dataset_of(adapter)
    data = datamodule(dataset, folder)
    trained = PeftModel.from_pretrained(load_model(BACKBONE), adapter)
    updates = {name: update.double() for name, update in iter_delta_weights(trained)}
    model = load_model(BACKBONE)
    squares = second_moments(model, list(updates), training_batches(dataset, data))
    fitted = {"lora": (updates, 0.0)}
    for row, settings in ROWS.items():
        found, left_over = {}, []
        for name, update in updates.items():
            found[name] = fit(update, squares[name], *directions(*update.shape, *settings))
            rest = update - found[name]
            norms = [((m @ squares[name]) * m).sum() for m in (rest, update)]
            left_over.append(float(norms[0] / norms[1]))
        fitted[row] = found, sum(left_over) / len(left_over)
    sys.stdout.write("| | left of the outputs | validation loss |\n|---|---|---|\n")
    for row, (found, left_over) in fitted.items():
        hooks = []
        for name, update in found.items():
            hook = add_update(update.float(), torch.zeros(len(update)), 1, 0)
            hooks.append(model.get_submodule(name).register_forward_hook(hook))
        sys.stdout.write(f"| {row} | {left_over:.1%} | {validation_loss(model, data):.3f} |\n")
        sys.stdout.flush()
        for hook in hooks:
            hook.remove()


if __name__ == "__main__":
    run(main, __doc__, folder=None, adapter=None)
