"""The order of a run can be had again, from any place in it."""

import pytest
import torch.distributed as dist

from datamodules.loading import (
    Batches,
    EpochSampler,
    LengthSampler,
    ResumableLoader,
    TokenBudgetSampler,
)


def loader(seed=3):
    data = list(range(20))
    return ResumableLoader(data, batch_size=3, sampler=EpochSampler(data, seed))


def batches(loader, epoch):
    loader.sampler.set_epoch(epoch)
    return [batch.tolist() for batch in loader]


def test_order_is_a_function_of_seed_and_epoch():
    first = batches(loader(), 0)
    assert sorted(i for batch in first for i in batch) == list(range(20))
    assert batches(loader(), 0) == first
    assert batches(loader(), 1) != first
    assert batches(loader(seed=4), 0) != first


def test_goes_on_where_it_stopped():
    whole = batches(loader(), 2)
    stopped = loader()
    stopped.sampler.set_epoch(2)
    iterator = iter(stopped)
    head = [next(iterator).tolist() for _ in range(4)]
    resumed = loader()
    resumed.load_state_dict(stopped.state_dict())
    assert head + batches(resumed, 2) == whole
    # The epoch after that is whole again.
    assert batches(resumed, 3) == batches(loader(), 3)


LENGTHS = [5, 3, 9, 9, 1, 7, 2, 8, 6, 4, 5]


def test_batches_hold_like_lengths_and_every_example_once():
    order = list(LengthSampler(LENGTHS, batch_size=3))
    assert sorted(order) == list(range(11))
    batches = [[LENGTHS[i] for i in order[start : start + 3]] for start in range(0, 11, 3)]
    assert batches[0] == [9, 9, 8]
    assert batches[-1] == [2, 1]
    # By hand: sorted and cut into threes, whatever the order of the threes.
    assert sorted(batches) == sorted([[9, 9, 8], [7, 6, 5], [5, 4, 3], [2, 1]])
    assert order == list(LengthSampler(LENGTHS, batch_size=3))


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_processes_share_the_examples_and_repeat_none(monkeypatch, processes):
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: processes)
    taken = []
    for rank in range(processes):
        monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)
        taken.append(list(LengthSampler(LENGTHS, batch_size=2)))
    assert sorted(index for share in taken for index in share) == list(range(11))
    assert max(map(len, taken)) - min(map(len, taken)) <= 1


def test_fewer_examples_than_processes_are_a_mistake(monkeypatch):
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 3)
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    with pytest.raises(ValueError, match="3 processes for 2 examples"):
        LengthSampler([4, 7], batch_size=1)


def budget_loader(tokens=12, seed=3, shuffle=True):
    sampler = TokenBudgetSampler(LENGTHS, tokens, seed, shuffle=shuffle)
    rows = Batches(list(range(len(LENGTHS))))
    return ResumableLoader(rows, batch_size=None, sampler=sampler, collate_fn=list)


def test_batches_have_as_many_examples_as_fit():
    loader = budget_loader()
    for epoch in (0, 1):
        loader.sampler.set_epoch(epoch)
        found = list(loader)
        assert len(found) == len(loader)
        assert sorted(index for batch in found for index in batch) == list(range(len(LENGTHS)))
        assert all(sum(LENGTHS[index] for index in batch) <= 12 for batch in found)
    # 5 3 | 9 | 9 1 | 7 2 | 8 | 6 4 | 5
    expected = [[0, 1], [2], [3, 4], [5, 6], [7], [8, 9], [10]]
    assert list(budget_loader(shuffle=False)) == expected


def test_order_of_batches_is_a_function_of_seed_and_epoch_and_can_go_on():
    def epoch_of(loader, epoch):
        loader.sampler.set_epoch(epoch)
        return list(loader)

    whole = epoch_of(budget_loader(), 2)
    assert epoch_of(budget_loader(), 2) == whole
    assert epoch_of(budget_loader(), 1) != whole
    assert sorted(epoch_of(budget_loader(), 1)) == sorted(whole)
    assert sorted(epoch_of(budget_loader(seed=4), 2)) != sorted(whole)
    stopped = budget_loader()
    stopped.sampler.set_epoch(2)
    iterator = iter(stopped)
    head = [next(iterator) for _ in range(2)]
    resumed = budget_loader()
    resumed.load_state_dict(stopped.state_dict())
    assert head + epoch_of(resumed, 2) == whole


@pytest.mark.parametrize("processes", [2, 3, 4, 20])
def test_processes_take_equally_many_batches_of_a_budget(monkeypatch, processes):
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: processes)
    taken = []
    for rank in range(processes):
        monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)
        loader = budget_loader()
        taken.append(list(loader))
        assert len(taken[-1]) == len(loader)
    assert len({len(batches) for batches in taken}) == 1
    given = [tuple(batch) for batches in taken for batch in batches]
    alone = {tuple(batch) for batch in budget_loader().sampler.batches}
    assert set(given) == alone
    assert len(given) - len(alone) == -len(alone) % processes
