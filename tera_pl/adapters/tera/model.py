"""Inject TeRA into a model, with one copy of every frozen core and factor."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from peft import PeftConfig
from peft.utils.other import get_pattern_key
from torch import nn

from tera_pl.adapters.frozen_model import FrozenModel
from tera_pl.adapters.layer import AdapterLayer
from tera_pl.adapters.tera.config import DEFAULT_OUT_MODES, TeraConfig
from tera_pl.adapters.tera.layer import FrozenNetwork, TeraLayer
from tera_pl.errors import UserError
from tera_pl.tensor import SharedProjections, network_keys, plan_modes

COMPUTE_DTYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


class TeraModel(FrozenModel):
    """A model with TeRA injected.

    Layers that read the same input share its projection, see `SharedProjections`.
    """

    prefix: str = "tera_"
    tuner_layer_cls = TeraLayer

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # PEFT injects layers in `__init__`.
        self.projections = SharedProjections()
        super().__init__(*args, **kwargs)

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> Any:
        """Inject an adapter.

        Args:
            model: The model; changed in place.
            adapter_name: Name of the adapter.
            *args: As PEFT gives them.
            **kwargs: As PEFT gives them.

        Returns:
            What PEFT returns.

        Raises:
            UserError: If a key of `modes_pattern` matches no target, or the frozen tensors do not
                have the hash in the configuration.
        """
        config = self.peft_config[adapter_name]
        # Sizes of output dimensions that the default of `out_modes` cannot split, by module.
        self._unsplit: dict[str, int] = {}
        result = super().inject_adapter(model, adapter_name, *args, **kwargs)
        config.has_unsplit = bool(self._unsplit)
        if self._unsplit:
            warnings.warn(_describe_unsplit(self._unsplit), stacklevel=1)
        _check_patterns(model, config, adapter_name)
        return result

    def _shared(
        self, layer: AdapterLayer, adapter_name: str, config: PeftConfig, current_key: str
    ) -> dict[str, Any]:
        assert isinstance(config, TeraConfig)
        return {"frozen": self._frozen_network(layer, config, current_key)}

    def _frozen_network(self, layer: AdapterLayer, config: TeraConfig, key: str) -> FrozenNetwork:
        pattern = get_pattern_key(config.modes_pattern.keys(), key)
        modes = config.modes_pattern.get(pattern, {})
        out_modes = self._out_modes(
            layer.out_features, modes.get("out_modes", config.out_modes), key
        )
        in_modes = plan_modes(layer.in_features, modes.get("in_modes", config.in_modes))
        ranks = _check_ranks(modes.get("ranks", config.ranks), (*out_modes, *in_modes))
        core, factors = network_keys(
            out_modes, in_modes, ranks, config.seed, config.core_init, config.factor_init
        )
        device, dtype = layer._get_base_layer_device_and_dtype(layer.get_base_layer())
        # 8 bits. Of 4 bits this is the type of the products, to which PEFT casts these tensors too.
        if dtype not in COMPUTE_DTYPES:
            found = (parameter.dtype for parameter in self.model.parameters())
            dtype = next((dtype for dtype in found if dtype in COMPUTE_DTYPES), torch.float32)
        shared_core, *shared_factors = self._share([core, *factors], device, dtype)
        return FrozenNetwork(shared_core, shared_factors, len(out_modes), self.projections)

    def _out_modes(self, size: int, modes: int | list[int] | None, key: str) -> tuple[int, ...]:
        if modes is not None:
            return plan_modes(size, modes)
        try:
            return plan_modes(size, DEFAULT_OUT_MODES)
        except UserError:
            self._unsplit[key] = size
            return (size,)


def _describe_unsplit(sizes: Mapping[str, int]) -> str:
    key, size = next(iter(sizes.items()))
    return (
        f"TeRA does not split the output dimension of {len(sizes)} modules, which is not a product "
        f"of {DEFAULT_OUT_MODES} numbers above 1: {key} ({size}){', ...' if len(sizes) > 1 else ''}"
    )


def _check_ranks(ranks: Sequence[int] | None, modes: Sequence[int]) -> tuple[int, ...]:
    if ranks is None:
        return tuple(modes)
    if len(ranks) != len(modes):
        raise UserError(
            f"ranks {list(ranks)} are {len(ranks)}: expected {len(modes)}, one for each of the "
            f"modes {list(modes)}"
        )
    for rank, mode in zip(ranks, modes, strict=True):
        if not 1 <= rank <= mode:
            raise UserError(
                f"rank {rank} does not fit a mode of size {mode}: expected 1 to {mode} "
                f"(ranks {list(ranks)}, modes {list(modes)})"
            )
    return tuple(ranks)


def _check_patterns(model: nn.Module, config: TeraConfig, adapter_name: str) -> None:
    targets = [
        name
        for name, module in model.named_modules()
        if isinstance(module, TeraLayer) and adapter_name in module.tera_vectors
    ]
    for pattern in config.modes_pattern:
        if not any(get_pattern_key([pattern], name) == pattern for name in targets):
            raise UserError(
                f"modes_pattern: {pattern!r} matches none of the adapted modules "
                f"({', '.join(sorted({name.rpartition('.')[2] for name in targets}))})"
            )
