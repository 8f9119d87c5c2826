"""The common part of methods whose frozen tensors are drawn from a seed and shared by layers."""

from collections.abc import Sequence
from typing import Any

import torch
from peft import PeftConfig
from torch import Tensor, nn

from tera_pl.adapters.config import FrozenConfig, missing_hash
from tera_pl.adapters.layer import AdapterLayer
from tera_pl.adapters.model import AdapterModel
from tera_pl.errors import UserError
from tera_pl.tensor import FrozenKey, FrozenTensor, digest, draw, fingerprint


class FrozenModel(AdapterModel):
    """A model with a method whose layers share frozen tensors.

    Layers that need the same one, on the same device and in the same dtype, have the same module,
    whichever adapter or target they belong to. The hash of an adapter's frozen tensors is in its
    configuration, and verified when it is loaded.
    """

    frozen_cls: type[FrozenTensor] = FrozenTensor

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
            UserError: If the frozen tensors do not have the hash in the configuration.
        """
        config = self.peft_config[adapter_name]
        result = super().inject_adapter(model, adapter_name, *args, **kwargs)
        found = _fingerprint(_frozen_tensors(model, adapter_name))
        # With save_frozen, the saved tensors are about to replace what was drawn here.
        if found and config.expected_sha256 not in {None, found} and not config.save_frozen:
            raise UserError(
                f"frozen_sha256: the adapter was made with tensors {config.expected_sha256}, but "
                f"seed {config.seed} and these settings give {found}: the seed, another setting, "
                "the targets or the sizes of the base model were changed, or the file is from "
                "another scheme; restore the settings, or, to train a new adapter, remove "
                "frozen_sha256"
            )
        config.frozen_sha256 = config.expected_sha256 or found
        return result

    def _share(
        self, keys: Sequence[FrozenKey], device: torch.device, dtype: torch.dtype
    ) -> list[FrozenTensor]:
        """Return the frozen tensors of some keys: those that other layers have, or new ones."""
        known = {(t.key, t.value.device, t.value.dtype): t for t in _frozen_tensors(self.model)}
        for key in keys:
            if (key, device, dtype) not in known:
                known[key, device, dtype] = self.frozen_cls(key, device, dtype)
        return [known[key, device, dtype] for key in keys]

    @classmethod
    def _get_adapter_state_dict(
        cls,
        model: nn.Module,
        config: PeftConfig,
        adapter_name: str,
        state_dict: dict[str, Tensor],
        unwanted_adapter_names: list[str],
    ) -> dict[str, Tensor]:
        assert isinstance(config, FrozenConfig)
        state = super()._get_adapter_state_dict(
            model, config, adapter_name, state_dict, unwanted_adapter_names
        )
        frozen = _frozen_tensors(model, adapter_name)
        config.frozen_sha256 = _fingerprint(frozen) or config.frozen_sha256
        if config.save_frozen:
            state |= {cls._frozen_prefix() + tensor.key.text: _master(tensor) for tensor in frozen}
        return state

    @classmethod
    def _take_frozen(
        cls, model: nn.Module, config: PeftConfig, adapter_name: str, state: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        assert isinstance(config, FrozenConfig)
        frozen = _frozen_tensors(model, adapter_name)
        if frozen and config.is_from_file and config.expected_sha256 is None:
            what = f"seed {config.seed} and these settings give frozen tensors with"
            raise missing_hash("frozen_sha256", what, _fingerprint(frozen))
        prefix = cls._frozen_prefix()
        saved = {
            name.removeprefix(prefix): value
            for name, value in state.items()
            if name.startswith(prefix)
        }
        if config.save_frozen:
            _restore_frozen(frozen, saved, config)
        return {name: value for name, value in state.items() if not name.startswith(prefix)}

    @classmethod
    def _frozen_prefix(cls) -> str:
        return f"base_model.{cls.prefix}frozen."


def _frozen_tensors(model: nn.Module, adapter_name: str | None = None) -> list[FrozenTensor]:
    """List the distinct frozen tensors of a model, of one adapter or of all."""
    found: dict[int, FrozenTensor] = {}
    for module in model.modules():
        if isinstance(module, AdapterLayer):
            names = [*module.configs] if adapter_name is None else [adapter_name]
            for name in module.own_adapters(names):
                found |= {id(tensor): tensor for tensor in module.get_frozen_tensors(name)}
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


def _restore_frozen(
    tensors: Sequence[FrozenTensor], saved: dict[str, Tensor], config: FrozenConfig
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
