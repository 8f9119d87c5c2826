"""The order of a run can be had again, from any place in it."""

from datamodules.loading import EpochSampler, ResumableLoader


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
