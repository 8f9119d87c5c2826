"""Two steps on a tiny model, from fit to merge, for the tables of docs/."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoModelForCausalLM

from tera_pl.adapters.supported import NeedsWeightsError
from tera_pl.analysis.merging import check_mergeable, merge
from tera_pl.distributed.fsdp2 import average_gradients
from tera_pl.models.backbone import Backbone, add_adapter, load_meta_model
from tera_pl.models.fingerprint import fingerprint_frozen
from tera_pl.tasks.loss import prepare, supervised_loss

YES, NO, WRONG = "yes", "no", "**wrong**"
IDS = torch.arange(4, 36).reshape(4, 8)
Cells = dict[str, str]


def trained(model: Any) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


class WithLoss(nn.Module):
    """Computes the loss in forward, where DDP looks for parameters to wait for."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return supervised_loss(self.model, prepare(batch, packed=False))[0]


def step(model: Any, seed: int, *, mesh: Any = None, rows: slice = slice(None)) -> None:
    """One step of SGD on the rows of a batch that the seed draws."""
    ids = torch.randint(4, 40, (2, 9), generator=torch.Generator().manual_seed(seed))[rows]
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    torch.manual_seed(seed)  # dropout
    loss = model if isinstance(model, DistributedDataParallel) else WithLoss(model)
    loss(batch).backward()
    if mesh is not None:
        average_gradients(model.parameters(), mesh)
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
    model.zero_grad()


@torch.no_grad()
def logits(model: Any, **names: Any) -> torch.Tensor:
    found = model.eval()(input_ids=IDS, use_cache=False, **names).logits.float()
    return found[:, -IDS.shape[1] :]  # without those of virtual tokens


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> bool:
    return bool(((found - expected).abs().max() <= tolerance * expected.abs().max()).item())


def run_two_steps(model: Any, again: Any, base: str, folder: Path) -> tuple[torch.Tensor, Cells]:
    """Fit a model, resume after its first step, save and load it.

    Args:
        model: The adapted model as it is before its first step; after this, two steps later.
        again: The same, made anew.
        base: Folder of its base.
        folder: Where to save it.

    Returns:
        The logits after both steps, and what worked.
    """
    before = trained(model)
    step(model, 1)
    middle = trained(model)
    step(model, 2)
    after, expected = trained(model), logits(model)
    fitted = any((before[n] != p).any() for n, p in after.items())

    assert fingerprint_frozen(again) == fingerprint_frozen(model)
    with torch.no_grad():
        for name, parameter in again.named_parameters():
            parameter.copy_(middle.get(name, parameter))
    step(again, 2)
    resumed = all(torch.equal(p, trained(again)[n]) for n, p in after.items())

    model.save_pretrained(folder)
    if isinstance(model, PeftModel):
        loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)
    else:
        loaded = AutoModelForCausalLM.from_pretrained(folder)
    works = {"fit": fitted, "resume": resumed, "adapter": close(logits(loaded), expected)}
    return expected, {stage: YES if right else WRONG for stage, right in works.items()}


def merged_logits(model: Any, config: PeftConfig, backbone: Backbone) -> torch.Tensor:
    """Merge in the order of a run: what needs no weights is checked without them."""
    with suppress(NeedsWeightsError):
        check_mergeable(add_adapter(load_meta_model(backbone), config))
    return logits(merge(model)[0])
