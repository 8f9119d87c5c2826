"""The mathematics of TeRA as pure functions of tensors."""

from tera_pl.tensor.application import apply, apply_linear, apply_mixed
from tera_pl.tensor.compute import Compute, NetworkShape, choose_compute
from tera_pl.tensor.frozen import (
    CoreInit,
    FactorInit,
    FrozenKey,
    FrozenTensor,
    digest,
    draw,
    fingerprint,
    network_keys,
)
from tera_pl.tensor.full_float32 import full_float32
from tera_pl.tensor.modes import plan_modes
from tera_pl.tensor.network import TensorNetwork, contract
from tera_pl.tensor.projection import SharedProjections

__all__ = [
    "Compute",
    "CoreInit",
    "FactorInit",
    "FrozenKey",
    "FrozenTensor",
    "NetworkShape",
    "SharedProjections",
    "TensorNetwork",
    "apply",
    "apply_linear",
    "apply_mixed",
    "choose_compute",
    "contract",
    "digest",
    "draw",
    "fingerprint",
    "full_float32",
    "network_keys",
    "plan_modes",
]
