"""Inject TeRA into a model, with one copy of every frozen core and factor."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from peft import PeftConfig
from peft.utils.other import get_pattern_key
from torch import Tensor, nn

from tera_pl.adapters.config import missing_hash
from tera_pl.adapters.layer import AdapterLayer
from tera_pl.adapters.model import AdapterModel
from tera_pl.adapters.tera.config import DEFAULT_OUT_MODES, TeraConfig
from tera_pl.adapters.tera.layer import FrozenNetwork, TeraLayer
from tera_pl.errors import UserError
from tera_pl.tensor import (
    FrozenKey,
    FrozenTensor,
    SharedProjections,
    digest,
    draw,
    fingerprint,
    network_keys,
    plan_modes,
)

FROZEN_PREFIX = "base_model.tera_frozen."
COMPUTE_DTYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


class TeraModel(AdapterModel):
    """A model with TeRA injected.

    Frozen cores and factors are shared: layers that need the same one, on the same device and in
    the same dtype, have the same module, whichever adapter or target they belong to. Layers that
    read the same input share its projection, see `SharedProjections`.
    """

    prefix: str = "tera_"
    tuner_layer_cls = TeraLayer

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # PEFT injects layers in `__init__`.
        self.projections = SharedProjections()
        super().__init__(*args, **kwargs)

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> Any:
        """Inject an adapter and hash its frozen tensors.

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
        found = _fingerprint(_frozen_tensors(model, adapter_name))
        # With save_frozen, the saved tensors are about to replace what was drawn here.
        if found and config.expected_sha256 not in {None, found} and not config.save_frozen:
            raise UserError(
                f"frozen_sha256: the adapter was made with tensors {config.expected_sha256}, but "
                f"seed {config.seed} and these settings give {found}: seed, modes, ranks, "
                "distributions or targets were changed, or the file is from another scheme; "
                "restore the settings, or, to train a new adapter, remove frozen_sha256"
            )
        config.frozen_sha256 = config.expected_sha256 or found
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
        shared = {(t.key, t.value.device, t.value.dtype): t for t in _frozen_tensors(self.model)}

        def get(key: FrozenKey) -> FrozenTensor:
            place = (key, device, dtype)
            if place not in shared:
                shared[place] = FrozenTensor(key, device, dtype)
            return shared[place]

        factor_tensors = [get(factor) for factor in factors]
        return FrozenNetwork(get(core), factor_tensors, len(out_modes), self.projections)

    def _out_modes(self, size: int, modes: int | list[int] | None, key: str) -> tuple[int, ...]:
        if modes is not None:
            return plan_modes(size, modes)
        try:
            return plan_modes(size, DEFAULT_OUT_MODES)
        except UserError:
            self._unsplit[key] = size
            return (size,)

    @classmethod
    def _get_adapter_state_dict(
        cls,
        model: nn.Module,
        config: PeftConfig,
        adapter_name: str,
        state_dict: dict[str, Tensor],
        unwanted_adapter_names: list[str],
    ) -> dict[str, Tensor]:
        state = super()._get_adapter_state_dict(
            model, config, adapter_name, state_dict, unwanted_adapter_names
        )
        frozen = _frozen_tensors(model, adapter_name)
        config.frozen_sha256 = _fingerprint(frozen) or config.frozen_sha256
        if config.save_frozen:
            state |= {FROZEN_PREFIX + tensor.key.text: _master(tensor) for tensor in frozen}
        return state

    @classmethod
    def _take_frozen(
        cls, model: nn.Module, config: PeftConfig, adapter_name: str, state: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        assert isinstance(config, TeraConfig)
        frozen = _frozen_tensors(model, adapter_name)
        if frozen and config.is_from_file and config.expected_sha256 is None:
            what = f"seed {config.seed} and these settings give frozen tensors with"
            raise missing_hash("frozen_sha256", what, _fingerprint(frozen))
        saved = {
            name.removeprefix(FROZEN_PREFIX): value
            for name, value in state.items()
            if name.startswith(FROZEN_PREFIX)
        }
        if config.save_frozen:
            _restore_frozen(frozen, saved, config)
        return {name: v for name, v in state.items() if not name.startswith(FROZEN_PREFIX)}


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


def _frozen_tensors(model: nn.Module, adapter_name: str | None = None) -> list[FrozenTensor]:
    """List the distinct frozen tensors of a model, of one adapter or of all."""
    found: dict[int, FrozenTensor] = {}
    for module in model.modules():
        if isinstance(module, TeraLayer):
            for name, frozen in module.tera_frozen.items():
                if adapter_name in {None, name}:
                    found |= {id(t): t for t in frozen.tensors()}  # type: ignore[operator]
    return list(found.values())


def _fingerprint(tensors: Sequence[FrozenTensor]) -> str | None:
    """Hash of frozen tensors; null for an empty list or on the meta device: nothing is drawn."""
    digests = {tensor.key.text: tensor.digest for tensor in tensors}
    if not digests or None in digests.values():
        return None
    return fingerprint({text: value for text, value in digests.items() if value is not None})


def _master(tensor: FrozenTensor) -> Tensor:
    """The tensor in float32 as it was drawn or loaded; in the model it may have fewer bits."""
    value = tensor.value.detach().float().cpu()
    if digest(value) != tensor.digest:
        value = draw(tensor.key)
    if digest(value) == tensor.digest:
        return value
    raise UserError(
        f"save_frozen: {tensor.key.text} came from a file and is rounded here to "
        f"{tensor.value.dtype}: load the adapter on a float32 base to save it again"
    )


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


def _restore_frozen(
    tensors: Sequence[FrozenTensor], saved: dict[str, Tensor], config: TeraConfig
) -> None:
    missing = sorted({t.key.text for t in tensors} - saved.keys())
    if missing:
        raise UserError(
            f"save_frozen: the adapter's file lacks {len(missing)} frozen tensors, for example "
            f"{missing[0]}: load it with save_frozen false to draw them from the seed"
        )
    found = fingerprint({text: digest(value) for text, value in saved.items()})
    if found != config.frozen_sha256:
        raise UserError(
            f"frozen_sha256: the frozen tensors in the adapter's file have hash {found}, its "
            f"configuration says {config.frozen_sha256}: the file is damaged or belongs to "
            "another adapter"
        )
    for tensor in tensors:
        tensor.replace(saved[tensor.key.text])
