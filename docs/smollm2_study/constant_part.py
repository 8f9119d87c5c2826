"""Print how much of what an adapter learned is a bias.

    python docs/smollm2_study/constant_part.py FOLDER ADAPTER ...

FOLDER has convai2/, math/ and commonsense/; ADAPTER is the folder `adapter` of a run in the folder
of a study, whose name starts with that of the dataset. A weight update DeltaW adds DeltaW m to the
output for the mean input m, and DeltaW (x - m) beside it. The validation loss (nats per supervised
token) is that of the update, of its constant part DeltaW m alone, and of the rest alone. The mean
is that of some training records under the base model.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gradient import DATASETS, MODEL, MeanInputs, datamodule, run, training_batches
from peft import PeftModel
from torch import Tensor, nn

from tera_pl.analysis.delta_weights import iter_delta_weights
from tera_pl.models.backbone import Backbone, load_model
from tera_pl.tasks.loss import prepare, supervised_loss

# As in the study.
BACKBONE = Backbone(MODEL, dtype="bfloat16")


@torch.no_grad()
def validation_loss(model: nn.Module, data: Any) -> float:
    """Nats per supervised token of the validation split."""
    total, tokens = 0.0, 0
    for batch in data.val_dataloader():
        loss, count = supervised_loss(model, prepare(batch, packed=False))
        total, tokens = total + float(loss) * count, tokens + count
    return total / tokens


def add_update(weight: Tensor, bias: Tensor, full: float, constant: float) -> Callable:
    """A hook that adds multiples of an update and of its constant part to a layer's output."""

    def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        added = full * nn.functional.linear(inputs[0].float(), weight) + constant * bias
        return output + added.to(output.dtype)

    return hook


@torch.no_grad()
def constant_part(adapter: Path, dataset: str, data: Any) -> list[float]:
    """The losses of a base model, of an adapter, of its constant part and of the rest."""
    trained = PeftModel.from_pretrained(load_model(BACKBONE), adapter)
    updates = {name: update.float() for name, update in iter_delta_weights(trained)}
    model = load_model(BACKBONE)
    layers = {name: model.get_submodule(name) for name in updates}
    means = MeanInputs(layers)
    for batch in training_batches(dataset, data):
        supervised_loss(model, batch)
    biases = {name: updates[name] @ means[name].float() for name in updates}
    losses = [validation_loss(model, data)]
    for full, constant in ((1, 0), (0, 1), (1, -1)):
        hooks = [
            layer.register_forward_hook(add_update(updates[name], biases[name], full, constant))
            for name, layer in layers.items()
        ]
        losses.append(validation_loss(model, data))
        for hook in hooks:
            hook.remove()
    return losses


def dataset_of(adapter: Path) -> str:
    """The dataset of a run, by the folder of its study."""
    study = adapter.parents[3].name
    return next(name for name, (key, *_) in DATASETS.items() if study.startswith(key))


def main(folder: Path, adapters: list[Path]) -> None:
    """Print a row for every adapter."""
    names = "run", "base model", "update", "constant part", "the rest"
    sys.stdout.write(f"| {' | '.join(names)} |\n|{'---|' * len(names)}\n")
    for adapter in adapters:
        dataset = dataset_of(adapter)
        data = datamodule(dataset, folder)
        losses = " | ".join(f"{loss:.3f}" for loss in constant_part(adapter, dataset, data))
        sys.stdout.write(f"| {adapter.parents[2].name}/{adapter.parents[1].name} | {losses} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    run(main, __doc__, folder=None, adapters="+")
