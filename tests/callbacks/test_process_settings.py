"""What a run changes in the process is restored at its end and after an error."""

import signal
from types import SimpleNamespace

import pytest
import torch

from tera_pl.callbacks import Interruption, MatmulPrecision

GPU = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cuda")))
CPU = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cpu")))


def end(callback, how):
    if how == "teardown":
        callback.teardown(GPU, None, "fit")
    else:
        callback.on_exception(GPU, None, ValueError())


@pytest.mark.parametrize("how", ["teardown", "exception"])
def test_precision_of_products_is_restored(how):
    before = torch.get_float32_matmul_precision()
    callback = MatmulPrecision("medium")
    callback.setup(GPU, None, "fit")
    assert torch.get_float32_matmul_precision() == "medium" != before
    end(callback, how)
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize(("trainer", "stage"), [(CPU, "fit"), (GPU, "test"), (GPU, "validate")])
def test_precision_of_products_is_left_alone(trainer, stage):
    before = torch.get_float32_matmul_precision()
    MatmulPrecision("medium").setup(trainer, None, stage)
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize("how", ["teardown", "exception"])
def test_signal_handlers_are_restored(how):
    def own(number, frame):
        """Stand for a handler of the program that runs this one."""

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, own) for number in numbers}
    try:
        callback = Interruption()
        callback.on_train_start(GPU, None)
        assert all(signal.getsignal(number) == callback._note for number in numbers)
        end(callback, how)
        assert all(signal.getsignal(number) is own for number in numbers)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
