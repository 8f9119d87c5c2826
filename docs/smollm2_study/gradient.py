"""Print how much of the loss's gradient a first step of each method can follow.

    python docs/smollm2_study/gradient.py FOLDER_WITH_CONVAI2

The gradient of the loss by a weight matrix is the direction in which it should move. To first order
an adapter moves it within the span of the derivatives of its weight update by its parameters. The
share is that of the gradient's squared norm within that span. Only `v_proj` is measured: the spans
of `q_proj` need three times the memory.
"""

import sys
from pathlib import Path

import peft
import torch
from torch import Tensor, nn

from datamodules import ConvAI2, Encoding, Split
from tera_pl.adapters import TeraConfig
from tera_pl.models.backbone import Backbone, load_model
from tera_pl.tasks.loss import prepare, supervised_loss

MODEL = "~/.cache/tera_pl/smollm2-135m-instruct"
LAYERS = (2, 10, 20, 28)
TURNS = 16
NAME = "proj"
TARGET = {"target_modules": [NAME]}
METHODS = {
    "TeRA": TeraConfig(**TARGET),
    "TeRA, moved": TeraConfig(**TARGET, init_weights=False),
    "TeRA_iden": TeraConfig(**TARGET, factor_init="identity"),
    "VeRA r=256": peft.VeraConfig(**TARGET, r=256),
    "LoRA r=1": peft.LoraConfig(**TARGET, r=1),
    "LoRA r=1, moved": peft.LoraConfig(**TARGET, r=1, init_lora_weights=False),
}


def gradients(folder: str) -> dict[int, Tensor]:
    """The gradient by `v_proj` of some layers, over the first turns of the training data."""
    data = ConvAI2(
        MODEL,
        folder,
        train_file="personachat_truecased_subset/train_instruction_format.json",
        test_file="valid_self_original_no_cands.txt",
        encoding=Encoding(template="chat", max_length=640),
        split=Split(size=120, method="tail", seed=58),
        batch_size=1,
    )
    data.setup("fit")
    model = load_model(Backbone(MODEL, dtype="float32")).requires_grad_(False)
    weights = {i: model.get_submodule(f"model.layers.{i}.self_attn.v_proj").weight for i in LAYERS}
    for weight in weights.values():
        weight.requires_grad_(True)
    for _, batch in zip(range(TURNS), data.train_dataloader(), strict=False):
        supervised_loss(model, prepare(batch, packed=False))[0].backward()
    return {i: weight.grad for i, weight in weights.items()}


def share(config: peft.PeftConfig, gradient: Tensor) -> float:
    """The share of a gradient within the first-order span of an adapter."""
    rows, columns = gradient.shape
    torch.manual_seed(0)
    net = nn.Sequential()
    net.add_module(NAME, nn.Linear(columns, rows, bias=False))
    model = peft.get_peft_model(net, config)
    inputs = torch.eye(columns)
    directions = []
    with torch.no_grad():
        start = model(inputs).T
        for parameter in (p for p in model.parameters() if p.requires_grad):
            for index in range(parameter.numel()):
                # Exact: all of these weight updates are linear in each of their parameters.
                parameter.view(-1)[index] += 1
                directions.append((model(inputs).T - start).reshape(-1))
                parameter.view(-1)[index] -= 1
    basis = torch.stack(directions, dim=1)
    basis = basis[:, basis.norm(dim=0) > 0]
    basis = basis / basis.norm(dim=0)
    along = (basis.T @ gradient.reshape(-1)).double()
    weights = torch.linalg.lstsq((basis.T @ basis).double(), along).solution
    return float(along @ weights / gradient.double().square().sum())


def main(folder: str) -> None:
    """Print a row per layer."""
    names = ["layer", "largest singular value", *METHODS]
    sys.stdout.write(f"| {' | '.join(names)} |\n|{'---|' * len(names)}\n")
    for layer, gradient in gradients(folder).items():
        squares = torch.linalg.svdvals(gradient.double()).square()
        cells = [str(layer), f"{float(squares[0] / squares.sum()):.1%}"]
        cells += [f"{share(config, gradient):.2%}" for config in METHODS.values()]
        sys.stdout.write(f"| {' | '.join(cells)} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(str(Path(sys.argv[1])))
