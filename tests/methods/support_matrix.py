"""What works with each method, tried on a tiny model: docs/support_matrix.md.

    python -m tests.methods.support_matrix       # write the table anew

A cell is `yes` only where the result was compared with that of another way.
"""

import copy
import json
import pkgutil
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from peft import PeftConfig
from torch._dynamo.exc import Unsupported
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel
from transformers import BitsAndBytesConfig

from tera_pl.checkpointing.trained_model import TrainedModel
from tera_pl.distributed.fsdp2 import shard_model
from tera_pl.errors import UserError
from tera_pl.export.lora import LoraSettings, convert
from tera_pl.models.backbone import Backbone, add_adapter, load_meta_model, load_model
from tera_pl.tasks.checks import check_quantized, try_adapter
from tests.conftest import ROOT, write_backbone
from tests.forks import call
from tests.methods.short_runs import (
    NO,
    WRONG,
    YES,
    Cells,
    WithLoss,
    close,
    logits,
    merged_logits,
    run_two_steps,
    step,
    trained,
)
from tests.methods.test_methods import METHODS, adapter_of

PAGE = ROOT / "docs" / "support_matrix.md"
COLUMNS = (
    "fit",
    "resume",
    "adapter",
    "merge",
    "LoRA",
    "mixed batch",
    "compile",
    "4 bits",
    "8 bits",
    "DDP",
    "FSDP2",
)
# How libraries refuse; any other exception is a defect.
REFUSALS = (UserError, ValueError, NotImplementedError, TypeError, Unsupported)
QUANTIZED = {"4 bits": {"load_in_4bit": True}, "8 bits": {"load_in_8bit": True}}


def config_of(name: str) -> PeftConfig | None:
    adapter = adapter_of(name)
    return adapter and pkgutil.resolve_name(adapter["class_path"])(**adapter["init_args"])


def build(name: str, backbone: Backbone) -> Any:
    """The adapted model, far from its start: most adapters start without an effect."""
    torch.manual_seed(1)
    model, config = load_model(backbone), config_of(name)
    return perturb(model if config is None else add_adapter(model, config)).train()


@torch.no_grad()
def perturb(model: Any) -> Any:
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn_like(parameter), alpha=0.5)
    return model


def in_one_process(name: str, backbone: Backbone, folder: Path) -> Cells:
    """Cells of a method that need no other process."""
    model = build(name, backbone)
    expected, cells = run_two_steps(model, build(name, backbone), backbone.path, folder)
    assert not close(expected, logits(load_model(backbone)), 0.01), f"{name} has no effect"
    cells["compile"] = answer(lambda: _compiles(name, backbone))
    cells["mixed batch"] = answer(lambda: _mixes(name, backbone))
    for column, settings in QUANTIZED.items():
        quantized = Backbone(
            backbone.path, dtype="float32", quantization=BitsAndBytesConfig(**settings)
        )
        cells[column] = answer(lambda q=quantized: _trains(name, q))
    cells["LoRA"] = answer(lambda: _converts(model, config_of(name), expected))
    cells["merge"] = answer(lambda: _merges(model, config_of(name), backbone, expected))
    return cells


def answer(check: Callable[[], bool]) -> str:
    try:
        return YES if check() else WRONG
    except REFUSALS:
        return NO


def _merges(
    model: Any, config: PeftConfig | None, backbone: Backbone, expected: torch.Tensor
) -> bool:
    if config is None:
        raise UserError("nothing to merge")
    return close(merged_logits(model, config, backbone), expected)


def _converts(model: Any, config: PeftConfig | None, expected: torch.Tensor) -> bool:
    if config is None:
        raise UserError("no adapter")
    trained_model = TrainedModel(copy.deepcopy(model), config, None, None, None)
    convert(trained_model, LoraSettings(rank=24))
    return close(logits(trained_model.model), expected, 1e-4)


def _mixes(name: str, backbone: Backbone) -> bool:
    """Two adapters in one batch, against one at a time."""
    model, config = build(name, backbone), config_of(name)
    if config is None:
        raise UserError("no adapter")
    model.add_adapter("other", config)
    model.set_adapter("other")
    perturb(model).set_adapter("default")
    found = logits(model, adapter_names=["default", "other", "default", "other"])
    alone = logits(model)
    if torch.equal(found, alone):
        raise UserError("PEFT ignores adapter_names for this method")
    model.set_adapter("other")
    return close(found[::2], alone[::2]) and close(found[1::2], logits(model)[1::2])


def _compiles(name: str, backbone: Backbone) -> bool:
    """A step through a compiled decoder layer changes the parameters as one without does."""
    torch._dynamo.reset()
    alone, compiled = build(name, backbone), build(name, backbone)
    for model in (alone, compiled):
        model.eval()  # dropout would be drawn in another order
    layer = next(m for m in compiled.modules() if type(m).__name__ == "LlamaDecoderLayer")
    layer.compile(fullgraph=True, backend="aot_eager")
    for model in (alone, compiled):
        step(model, 1)
    found = trained(compiled)
    return all(close(found[n], p, 1e-4) for n, p in trained(alone).items())


def _trains(name: str, backbone: Backbone) -> bool:
    base = load_meta_model(backbone)
    check_quantized(base, config_of(name), sharded=False)
    try_adapter(base, config_of(name))
    model = build(name, backbone)
    before = trained(model)
    step(model, 1)
    values = trained(model)
    finite = all(torch.isfinite(p).all() for p in values.values())
    return finite and any((before[n] != p).any() for n, p in values.items())


def in_two_processes(names: list[str], backbone: Backbone, folder: Path) -> dict[str, Cells]:
    """Cells of methods that two processes fill together, each with half of a batch."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = (port, names, backbone.path, folder)
    assert call(_as_rank, (0, *common), (1, *common)) == [0, 0]
    return json.loads((folder / "cells.json").read_text())


def _as_rank(rank: int, port: int, names: list[str], path: str, folder: Path) -> None:
    torch.set_num_threads(1)
    store = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    backbone = Backbone(path, dtype="float32")
    found: dict[str, Cells] = {}
    for name in names:
        found[name] = {
            "DDP": answer(lambda n=name: _as_one(n, backbone, rank, None)),
            "FSDP2": answer(lambda n=name: _as_one(n, backbone, rank, mesh)),
        }
    if rank == 0:
        (folder / "cells.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def _as_one(name: str, backbone: Backbone, rank: int, mesh: Any) -> bool:
    """Half of the batch in each process changes the parameters as the batch in one does."""
    alone = build(name, backbone).eval()  # each process would draw other dropout
    step(alone, 1)
    shared = build(name, backbone).eval()
    if mesh is not None:
        shard_model(shared, mesh)
        step(shared, 1, mesh=mesh, rows=slice(rank, rank + 1))
    else:
        wrapped = DistributedDataParallel(WithLoss(shared))
        step(wrapped, 1, rows=slice(rank, rank + 1))
    found = {
        n: p.full_tensor() if hasattr(p, "full_tensor") else p for n, p in trained(shared).items()
    }
    return all(close(found[n], p, 1e-4) for n, p in trained(alone).items())


def compute(folder: Path) -> dict[str, Cells]:
    """All rows of the table."""
    backbone = Backbone(str(write_backbone(folder / "backbone")), dtype="float32")
    rows = {name: in_one_process(name, backbone, folder / name) for name in METHODS}
    for name, cells in in_two_processes(METHODS, backbone, folder).items():
        rows[name] |= cells
    return rows


def as_table(rows: dict[str, Cells]) -> str:
    """The rows as a Markdown table."""
    lines = [f"| | {' | '.join(COLUMNS)} |", "|" + "---|" * (len(COLUMNS) + 1)]
    lines += [
        f"| {name} | {' | '.join(cells[c] for c in COLUMNS)} |" for name, cells in rows.items()
    ]
    return "\n".join(lines) + "\n"


def with_table(table: str) -> str:
    """The page with another table at its end."""
    return PAGE.read_text().partition("| | fit |")[0] + table


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        PAGE.write_text(with_table(as_table(compute(Path(name)))))
