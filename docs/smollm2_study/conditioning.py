"""Print how well conditioned the vector at zero of TeRA is.

    python docs/smollm2_study/conditioning.py FOLDER

FOLDER is as for gradient.py. With all other vectors at one, an update is linear in the vector d
that starts at zero, and its squared norm is d^T M d. The condition number of M is how much faster
gradient descent learns one direction of d than another. The columns, geometric means over the
layers: for the norm of the weights, which the frozen core and factors alone decide; for that of
the outputs on some training records of ConvAI2 under the base model; and for the latter with every
entry of d scaled to equal norm, which is what AdamW can do. 1 is the best.
"""

from math import exp, log
from pathlib import Path
from statistics import fmean

import torch
from constant_part import BACKBONE
from expressed import directions, metric, second_moments
from gradient import datamodule, print_table, run, training_batches
from torch import Tensor

from tera_pl.models.backbone import load_model
from tera_pl.tensor import CoreInit, FactorInit

# By row of the study: number of out and in modes, distribution of the factors and of the core.
ROWS: dict[str, tuple[int, int, FactorInit, CoreInit]] = {
    "tera": (2, 1, "normal", "normal"),
    "kronecker": (2, 1, "kronecker", "kronecker"),
    "orthogonal": (2, 1, "orthogonal", "orthogonal"),
    "tera_identity": (2, 1, "identity", "normal"),
    "orthogonal_core_identity": (2, 1, "identity", "orthogonal"),
    "order2_identity": (1, 1, "identity", "normal"),
    "out3": (3, 1, "normal", "normal"),
    "out4": (4, 1, "normal", "normal"),
    "in2": (1, 2, "normal", "normal"),
    "in3": (1, 3, "normal", "normal"),
    "in2_identity": (1, 2, "identity", "normal"),
    "in2_half_normal": (1, 2, "identity", "half_normal"),
    "in2_constant": (1, 2, "identity", "constant"),
}


def condition_number(matrix: Tensor) -> float:
    """The ratio of the largest to the smallest eigenvalue of a positive definite matrix."""
    values = torch.linalg.eigvalsh(matrix)
    return float(values[-1] / values[0])


def condition_numbers(squares: Tensor, left: Tensor, right: Tensor) -> list[float]:
    """The three condition numbers of a layer."""
    outputs = metric(squares, left, right)
    scale = outputs.diagonal().rsqrt()
    equal = torch.eye(len(squares), dtype=squares.dtype)
    matrices = metric(equal, left, right), outputs, outputs * scale * scale.unsqueeze(1)
    return [condition_number(matrix) for matrix in matrices]


@torch.no_grad()
def main(folder: Path) -> None:
    """Print a row for each method."""
    data = datamodule("ConvAI2", folder)
    model = load_model(BACKBONE)
    layers = {
        name: layer for name, layer in model.named_modules() if name.endswith(("q_proj", "v_proj"))
    }
    squares = second_moments(model, list(layers), training_batches("ConvAI2", data))
    rows = []
    for row, settings in ROWS.items():
        numbers = [
            condition_numbers(squares[name], *directions(*layer.weight.shape, *settings))
            for name, layer in layers.items()
        ]
        means = [exp(fmean(map(log, column))) for column in zip(*numbers, strict=True)]
        rows.append([row, *(f"{mean:,.1f}" for mean in means)])
    print_table(["", "weights", "outputs", "outputs, entries scaled"], rows)


if __name__ == "__main__":
    run(main, __doc__, folder=None)
