"""Print what the gradient of the loss looks like.

    python docs/smollm2_study/gradient.py FOLDER    # with convai2/, math/ and commonsense/

The gradient of the loss by a weight matrix is the direction in which it should move. The table says
how much of its squared norm its largest singular value holds, how much its product with the mean
input of the layer, and how much of the mean input's own squared norm its four largest features. An
update that is a column times the mean input adds nearly the same to every output: a bias.
"""

import itertools
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tera_pl.cli import ConfigurationCLI, build
from tera_pl.models.backbone import Backbone, load_model
from tera_pl.studies.definition import read_study
from tera_pl.tasks.loss import prepare, supervised_loss

CONFIGS = Path(__file__).parents[2] / "configs"
MODEL = "~/.cache/tera_pl/smollm2-135m-instruct"
LAYERS = (2, 10, 20, 28)
# By dataset: the folder with its configurations, that with its data, and how many training records
# are read; those of Commonsense170k are short.
DATASETS = {
    "ConvAI2": ("convai2", "convai2", 16),
    "Math10k": ("math10k", "math", 16),
    "Commonsense170k": ("commonsense170k", "commonsense", 64),
}


def datamodule(name: str, folder: Path) -> Any:
    """A datamodule with the settings of the study, but one record a batch."""
    benchmark, place, _ = DATASETS[name]
    configs = CONFIGS / benchmark / "smollm2_135m"
    given = read_study(configs / "study_main.yaml").entries["tera"].set | {
        "data.init_args.path": str(folder / place),
        "data.init_args.batch_size": 1,
        "data.init_args.eval_batch_size": 1,
    }
    arguments = [f"--{key}={value}" for key, value in given.items() if key.startswith("data.")]
    config = f"--config={configs / 'tera.yaml'}"
    data = build(ConfigurationCLI, ["fit", config, *arguments]).datamodule
    data.setup("fit")
    return data


def training_batches(name: str, data: Any) -> Iterator[Any]:
    """The first training records of a dataset, one a batch."""
    for batch in itertools.islice(data.train_dataloader(), DATASETS[name][2]):
        yield prepare(batch, packed=False)


class MeanInputs:
    """The mean input of layers over all tokens that passed through them."""

    def __init__(self, layers: dict[str, nn.Module]) -> None:
        self._sums: dict[str, Tensor] = {}
        self._tokens: dict[str, int] = {}
        for name, layer in layers.items():
            layer.register_forward_pre_hook(self._add(name))

    def _add(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            rows = inputs[0].detach().flatten(0, -2).double()
            self._sums[name] = self._sums.get(name, 0) + rows.sum(0)
            self._tokens[name] = self._tokens.get(name, 0) + len(rows)

        return hook

    def __getitem__(self, name: str) -> Tensor:
        """The mean input of a layer, shape (inputs,)."""
        return self._sums[name] / self._tokens[name]


def gradients(name: str, data: Any) -> dict[str, tuple[Tensor, Tensor]]:
    """The gradient by the weights of some layers over the first records, and their mean inputs."""
    model = load_model(Backbone(MODEL, dtype="float32")).requires_grad_(False)
    names = [f"{i}.self_attn.{kind}" for kind in ("q_proj", "v_proj") for i in LAYERS]
    layers = {layer: model.get_submodule(f"model.layers.{layer}") for layer in names}
    means = MeanInputs(layers)
    for layer in layers.values():
        layer.weight.requires_grad_(True)
    for batch in training_batches(name, data):
        supervised_loss(model, batch)[0].backward()
    return {key: (layer.weight.grad.double(), means[key]) for key, layer in layers.items()}


def print_table(names: list[str], rows: list[list[str]]) -> None:
    """Print a table in Markdown."""
    lines = [" | ".join(row) for row in (names, ["---"] * len(names), *rows)]
    sys.stdout.write("".join(f"| {line} |\n" for line in lines) + "\n")
    sys.stdout.flush()


def run(main: Callable[..., None], description: str | None, **paths: str | None) -> None:
    """Run a script on one thread with paths from the command line.

    Args:
        main: Takes the paths by name.
        description: The script's own, for its help.
        paths: `nargs` of argparse by the name of each path.
    """
    parser = ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)
    for name, number in paths.items():
        parser.add_argument(name, type=Path, nargs=number)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    main(**vars(arguments))


def main(folder: Path) -> None:
    """Print the table."""
    found = {name: gradients(name, datamodule(name, folder)) for name in DATASETS}
    rows = []
    for dataset, of_layers in found.items():
        for layer, (gradient, mean) in of_layers.items():
            squares = torch.linalg.svdvals(gradient).square()
            features = mean.square().sort(descending=True).values
            along = (gradient @ mean).square().sum() / mean.square().sum()
            shares = squares[0], along, features[:4].sum() / features.sum() * squares.sum()
            cells = [f"{float(share / squares.sum()):.1%}" for share in shares]
            rows.append([dataset, layer.replace(".self_attn.", " "), *cells])
    print_table(["", "layer", "largest singular value", "mean input", "its four features"], rows)


if __name__ == "__main__":
    run(main, __doc__, folder=None)
