"""Lightning's parts for the device: `accelerator: simulated`, `strategy: simulated`."""

from typing import Any

import torch
from lightning.pytorch.accelerators import Accelerator, AcceleratorRegistry
from lightning.pytorch.strategies import SingleDeviceStrategy, StrategyRegistry

from tests.simulated_accelerator.device import DEVICE

NAME = "simulated"


class SimulatedAccelerator(Accelerator):
    """One device."""

    def setup_device(self, device: torch.device) -> None:
        assert device == DEVICE

    def get_device_stats(self, device: Any) -> dict[str, Any]:
        return {}

    def teardown(self) -> None:
        pass

    @staticmethod
    def parse_devices(devices: Any) -> int:
        return int(devices)

    @staticmethod
    def get_parallel_devices(devices: int) -> list[torch.device]:
        return [DEVICE] * devices

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def name() -> str:
        return NAME


class SimulatedStrategy(SingleDeviceStrategy):
    """The strategy of a single device, which Lightning would put on the CPU."""

    strategy_name = NAME

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(DEVICE, **kwargs)


def register() -> None:
    """Make both known by name; once is enough."""
    if NAME not in AcceleratorRegistry:
        AcceleratorRegistry.register(NAME, SimulatedAccelerator)
        StrategyRegistry.register(NAME, SimulatedStrategy)
