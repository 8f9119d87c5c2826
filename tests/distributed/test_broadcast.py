"""What DDP sends: the trained vectors once, and nothing of what every process loads or draws."""

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from tera_pl.adapters import TeraConfig
from tera_pl.models.backbone import Backbone
from tera_pl.tasks import CausalLMTask
from tests.conftest import ROOT

IDS = torch.tensor([[1, 5, 6, 7]])


@pytest.fixture
def processes(tmp_path):
    """One process in a group of one, which sends as several do."""
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def sent(monkeypatch):
    """Collect the bytes of every broadcast."""
    found = []
    broadcast = dist._broadcast_coalesced

    def count(group, tensors, *args):
        found.append(sum(tensor.nbytes for tensor in tensors))
        return broadcast(group, tensors, *args)

    monkeypatch.setattr(dist, "_broadcast_coalesced", count)
    return found


def make_task():
    backbone = Backbone(str(ROOT / "datamodules" / "miniworld" / "base"), dtype="float32")
    task = CausalLMTask(backbone, TeraConfig(target_modules=["q_proj", "v_proj"]))
    task.setup("fit")
    task.configure_model()
    task.forward = task.model.forward
    return task


def nbytes(tensors):
    return sum(tensor.nbytes for tensor in tensors)


@pytest.mark.parametrize("left_alone", [True, False])
def test_bytes_sent_at_the_start_and_with_two_steps(processes, sent, left_alone):
    task = make_task()
    if not left_alone:
        del task._ddp_params_and_buffers_to_ignore
    wrapped = DistributedDataParallel(task)
    trained = nbytes(p for p in task.parameters() if p.requires_grad)
    start = sum(sent)
    sent.clear()
    for _ in range(2):
        wrapped(input_ids=IDS).logits.sum().backward()
    steps = sum(sent)
    if left_alone:
        assert (start, steps) == (trained, 0)
    else:  # what DDP does by itself: everything once, and buffers with every step
        buffers = nbytes(task.buffers())
        assert start == nbytes(task.parameters()) + buffers
        assert steps == 2 * buffers
        assert buffers > trained
