"""torch's private names do what the project uses them for."""

import itertools

import pytest
import torch
import torch.distributed as dist
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import scalar

from tera_pl.private_api.torch import (
    FUSED_ATTENTION,
    FUSED_ATTENTION_BACKWARD,
    ITEM,
    LAST_RATES,
    TorchDispatchMode,
    add_summary,
    has_forward_hooks,
    ignore_in_ddp,
    inplace_version,
    tree_leaves,
    tree_map,
    tree_map_only,
)


class Record(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.called = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.called.append(func)
        return func(*args, **(kwargs or {}))


def test_item_is_dispatched():
    with Record() as record:
        assert torch.tensor(3).item() == 3
    assert ITEM in record.called


def test_fused_attention_is_attention():
    query, key, value = (torch.randn(1, 2, 4, 8, requires_grad=True) for _ in range(3))
    with Record() as record:
        found = FUSED_ATTENTION(query, key, value, 0.0, True, attn_mask=None, scale=None)[0]
        found.sum().backward()
    assert FUSED_ATTENTION_BACKWARD.default in record.called
    scores = (query @ key.mT / 8**0.5).masked_fill(torch.ones(4, 4).triu(1).bool(), -torch.inf)
    torch.testing.assert_close(found, scores.softmax(-1) @ value)
    torch.testing.assert_close(
        found, F.scaled_dot_product_attention(query, key, value, is_causal=True)
    )


def test_trees():
    tree = {"a": [1, (2,)], "b": 3.0}
    assert tree_leaves(tree) == [1, 2, 3.0]
    assert tree_map(str, tree) == {"a": ["1", ("2",)], "b": "3.0"}
    assert tree_map_only(int, str, tree) == {"a": ["1", ("2",)], "b": 3.0}


def test_last_rates_are_in_the_state_of_a_scheduler():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.1)
    assert scheduler.state_dict()[LAST_RATES] == scheduler.get_last_lr() == [0.05]


def test_version_counts_in_place_operations():
    tensor = torch.zeros(2)
    versions = [inplace_version(tensor)]
    for change in (lambda: tensor + 1, lambda: tensor.add_(1), tensor[0].zero_):
        change()
        versions.append(inplace_version(tensor))
    assert [after - before for before, after in itertools.pairwise(versions)] == [0, 1, 1]


@pytest.mark.parametrize("name", ["register_forward_hook", "register_forward_pre_hook"])
def test_forward_hooks_are_found(name):
    module = torch.nn.Linear(2, 2)
    assert not has_forward_hooks(module)
    handle = getattr(module, name)(lambda *args: None)
    assert has_forward_hooks(module)
    handle.remove()
    assert not has_forward_hooks(module)


@pytest.fixture
def process_group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_ddp_ignores_names(process_group):
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    names = ["0.weight", "1.running_mean"]
    ignore_in_ddp(module, names)
    wrapped = DistributedDataParallel(module)
    assert wrapped.parameters_to_ignore == set(names)


def test_summary_is_written(tmp_path):
    with SummaryWriter(str(tmp_path)) as writer:
        add_summary(writer, scalar("x", 1.5))
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.value for event in events.Scalars("x")] == [1.5]
