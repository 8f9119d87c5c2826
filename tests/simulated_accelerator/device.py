"""A device that is not there: tensors that hold CPU values under another device type.

What a real accelerator refuses is an error here too, and what makes the host wait for it is written
down. The type is torch's `lazy`: no backend claims it, and autograd runs it on the calling thread.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE = torch.device("lazy", 0)

aten = torch.ops.aten

# Operations whose result the host must have before it can go on.
WAITING = {
    aten._local_scalar_dense.default,
    aten.equal.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.unique_consecutive.default,
    aten.unique_dim.default,
    aten.repeat_interleave.Tensor,
    aten.bincount.default,
    aten.linalg_svd.default,
    aten._linalg_svd.default,
    aten._linalg_eigh.default,
    aten._linalg_check_errors.default,
}
INDEXING = {aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default}
COPIES = {aten.copy_.default, aten._to_copy.default, aten._copy_from.default}
# Only these take tensors of two devices, beside numbers (tensors without dimensions).
ACROSS = INDEXING | COPIES


class WrongDeviceError(RuntimeError):
    """What a real accelerator would have refused."""


class DeviceTensor(Tensor):
    """A tensor on the device.

    Args:
        value: What it holds, on the CPU.
    """

    value: Tensor

    @staticmethod
    def __new__(cls, value: Tensor) -> "DeviceTensor":
        assert not isinstance(value, DeviceTensor)
        tensor = Tensor._make_wrapper_subclass(
            cls,
            value.shape,
            strides=value.stride(),
            storage_offset=value.storage_offset(),
            dtype=value.dtype,
            device=DEVICE,
        )
        tensor.value = value
        return tensor

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {}, lambda operation: None)

    def __repr__(self) -> str:
        return f"DeviceTensor({self.value})"

    # A real tensor has memory, by whose address libraries find out what shares it.

    def untyped_storage(self) -> Any:
        return self.value.untyped_storage()

    def data_ptr(self) -> int:
        return self.value.data_ptr()

    # torch writes both in C, for plain tensors only.

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.cpu().__reduce_ex__(protocol)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        copied = self.detach().clone().requires_grad_(self.requires_grad)
        if isinstance(self, torch.nn.Parameter):
            copied = torch.nn.Parameter(copied, self.requires_grad)
        return memo.setdefault(id(self), copied)


def run(func: Any, args: Any, kwargs: dict[str, Any], wait: Callable[[str], None]) -> Any:
    """Run an operation that may have tensors of the device, or make one there."""
    leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    here = [leaf for leaf in leaves if isinstance(leaf, DeviceTensor)]
    elsewhere = [leaf for leaf in leaves if not isinstance(leaf, DeviceTensor)]
    to = kwargs.get("device")
    to_device = bool(here) if to is None else torch.device(to).type == DEVICE.type
    if not here and not to_device:
        return func(*args, **kwargs)
    if here:
        _check(func, elsewhere, kwargs)
    if reason := _why_wait(func, args, kwargs, to_device):
        wait(reason)
    if to_device and to is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    plain = tree_map_only(DeviceTensor, lambda leaf: leaf.value, (args, kwargs))
    result = func(*plain[0], **plain[1])
    # What an operation changes in place it returns.
    known = {id(leaf.value): leaf for leaf in here} | {id(leaf): leaf for leaf in elsewhere}
    # In inference mode a view of an ordinary tensor is an ordinary tensor.
    ordinary = here and not here[0].is_inference() and func.is_view

    def wrap(tensor: Tensor) -> Tensor:
        if id(tensor) in known or not to_device:
            return known.get(id(tensor), tensor)
        with torch.inference_mode(torch.is_inference_mode_enabled() and not ordinary):
            return DeviceTensor(tensor)

    return tree_map_only(Tensor, wrap, result)


def _check(func: Any, elsewhere: list[Tensor], kwargs: dict[str, Any]) -> None:
    if func not in ACROSS and any(tensor.dim() for tensor in elsewhere):
        raise WrongDeviceError(f"{func}: tensors on {DEVICE} and on {elsewhere[0].device}")
    if isinstance(kwargs.get("generator"), torch.Generator):
        raise WrongDeviceError(f"{func}: a generator of the CPU and a tensor on {DEVICE}")


def _why_wait(func: Any, args: Any, kwargs: dict[str, Any], to_device: bool) -> str | None:
    """What makes the host wait, if it must."""
    if func in WAITING:
        return str(func)
    if func in INDEXING:
        indices = [t for t in tree_leaves(args[1]) if isinstance(t, Tensor)]
        masks = any(t.dtype in {torch.bool, torch.uint8} for t in indices)
        return f"{func} with a mask" if masks else None
    if func is aten.copy_.default:
        source, target, blocking = args[1], isinstance(args[0], DeviceTensor), not any(args[2:])
    elif func is aten._to_copy.default:
        source, target, blocking = args[0], to_device, True
    else:
        return None
    if isinstance(source, DeviceTensor) == target or kwargs.get("non_blocking") or not blocking:
        return None
    return f"{func} {'to' if target else 'from'} the device"


class Simulation:
    """While active, there is a device.

    Attributes:
        waits: What made the host wait for the device: the operation, and who asked for it.
    """

    def __init__(self) -> None:
        self.waits: list[tuple[str, str]] = []
        self._stack = ExitStack()

    def __enter__(self) -> "Simulation":
        self._stack.enter_context(_device_module())
        self._stack.enter_context(_Mode(self.waits))
        return self

    def __exit__(self, *args: Any) -> None:
        self._stack.close()


class _Mode(TorchDispatchMode):
    """Sees the operations that have no tensor of the device yet."""

    def __init__(self, waits: list[tuple[str, str]]) -> None:
        super().__init__()
        self._waits = waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # In inference mode composite operations come as they are, not as what they consist of.
        if torch.is_inference_mode_enabled() and func._can_decompose():
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        return run(func, args, kwargs, lambda name: self._waits.append((name, _caller())))


def _caller() -> str:
    """Which line of a library or of ours asked."""
    frame = sys._getframe(1)
    torch_folder = str(Path(torch.__file__).parent)
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith(torch_folder) and name != __file__:
            return f"{name}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return "?"


@contextmanager
def _device_module() -> Iterator[None]:
    """Give torch what it and libraries ask of a device type."""
    module = ModuleType("torch.lazy")
    module.is_available = lambda: True
    module.current_device = lambda: 0
    enabled = torch.is_autocast_enabled
    cpu_only = torch._C._only_lift_cpu_tensors()
    with (
        patch.object(torch, DEVICE.type, module, create=True),
        patch.object(
            torch,
            "is_autocast_enabled",
            lambda kind="cpu": enabled("cpu" if kind == "lazy" else kind),
        ),
        patch.dict("os.environ", {"HF_DEACTIVATE_ASYNC_LOAD": "1"}),
    ):
        swaps = torch.__future__.get_swap_module_params_on_conversion()
        # As on a real device, a parameter stays the same object when it moves.
        torch.__future__.set_swap_module_params_on_conversion(True)
        torch._C._set_only_lift_cpu_tensors(True)
        try:
            yield
        finally:
            torch._C._set_only_lift_cpu_tensors(cpu_only)
            torch.__future__.set_swap_module_params_on_conversion(swaps)
