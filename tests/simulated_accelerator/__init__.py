"""An accelerator that is not there, for tests of what runs on one."""

from tests.simulated_accelerator.device import DEVICE, DeviceTensor, Simulation, WrongDeviceError
from tests.simulated_accelerator.lightning import NAME, register

__all__ = ["DEVICE", "NAME", "DeviceTensor", "Simulation", "WrongDeviceError", "register"]
