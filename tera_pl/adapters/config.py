"""What the configurations of all methods have in common."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from peft import PeftConfig
from peft.utils import SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME, PeftType, load_peft_weights
from torch import Tensor

from tera_pl.adapters.fields import check_fields
from tera_pl.errors import UserError
from tera_pl.tensor.checksums import digest_all


@dataclass
class AdapterConfig(PeftConfig):
    """Fields and checks that all methods share; identifies the weights that were saved with it.

    A subclass sets `method` and adds its own fields; where it overrides `__post_init__`, it calls
    this one first, which checks the type of every field, `Literal` choices included.

    Args:
        weights_sha256: Hash of the tensors in the adapter's file. Set when the adapter is saved,
            verified when it is loaded.
        settings_sha256: Hash of the settings that change what these tensors compute. Set and
            verified in the same way; settings that are changed in Python after reading the file
            are not compared.
        target_modules: Names of the modules to adapt, a pattern that matches full names, or
            `all-linear` for all linear layers but the output layer; by default PEFT's default for
            the model, or query and value projections.
        exclude_modules: Names, or a pattern, of modules that are not adapted.
        modules_to_save: Modules that are fully trained and saved with the adapter.
        layers_to_transform: Indices of the layers to adapt; all if not given.
        layers_pattern: Name of the list of layers, if PEFT does not know it.
        dropout: Probability of zeroing an entry of the input of the weight update.
        init_weights: False draws parameters at random that would start at zero, so that a new
            adapter has an effect; for tests.

    Raises:
        UserError: If the value of a field is invalid.
    """

    # Name in PEFT's enumeration of methods.
    method: ClassVar[str]
    # Settings that change what an adapter computes and that no other check on loading covers.
    BOUND: ClassVar[tuple[str, ...]] = ()

    weights_sha256: str | None = None
    settings_sha256: str | None = None
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    dropout: float = 0.0
    init_weights: bool = True

    def __post_init__(self) -> None:
        try:
            super().__post_init__()
        except (ValueError, TypeError) as error:  # PEFT's own checks
            raise UserError(" ".join(str(error).split())) from error
        # Only a configuration from a file names its method: weights are about to be loaded for it.
        self.is_from_file = self.peft_type is not None
        self.bound_as_read = self._bound_settings()
        self.peft_type: PeftType | None = PeftType[self.method]
        check_fields(self)

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Save with the hash of the weights, which PEFT has already written to the same folder.

        Args:
            save_directory: Folder of the adapter.
            **kwargs: Arguments of PEFT.
        """
        names = (SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME)
        if any((Path(save_directory) / name).is_file() for name in names):
            self.weights_sha256 = digest_all(load_peft_weights(str(save_directory), device="cpu"))
            self.settings_sha256 = _digest_text(self._bound_settings())
        # The weights in memory may change after this.
        self.is_from_file = False
        super().save_pretrained(save_directory, **kwargs)

    def verify_weights(self, state: Mapping[str, Tensor]) -> None:
        """Verify tensors that are about to be loaded, and settings, by their saved hashes.

        Args:
            state: Tensors by their names in the adapter's file.

        Raises:
            UserError: If this configuration is from a file and a hash differs or is missing.
        """
        if not self.is_from_file:
            return
        found = digest_all(state)
        if self.weights_sha256 is None:
            raise missing_hash("weights_sha256", "the tensors of the adapter's file have", found)
        if found != self.weights_sha256:
            raise UserError(
                f"weights_sha256: adapter_config.json says {self.weights_sha256}, the tensors of "
                f"the adapter's file have {found}: the file is damaged, or not the one that was "
                "saved with this adapter_config.json; restore both from the run"
            )
        self._verify_settings()
        # What is loaded into this adapter later does not come from that file.
        self.is_from_file = False

    def _bound_settings(self) -> str:
        """Serialize the settings that `settings_sha256` covers, as in adapter_config.json."""
        return json.dumps({name: getattr(self, name) for name in self.BOUND}, default=str)

    def _verify_settings(self) -> None:
        found = _digest_text(self.bound_as_read)
        if self.settings_sha256 is None:
            raise missing_hash("settings_sha256", f"{self.bound_as_read} has", found)
        if found != self.settings_sha256:
            raise UserError(
                f"settings_sha256: adapter_config.json says {self.settings_sha256}, but "
                f"{self.bound_as_read} has {found}: a setting that changes what the adapter "
                "computes was edited after it was saved: restore it, or, if intended, accept "
                f'it by writing "settings_sha256": "{found}" into adapter_config.json'
            )


@dataclass
class FrozenConfig(AdapterConfig):
    """Fields of methods whose frozen tensors are drawn from a seed.

    Args:
        seed: Seed of the frozen tensors; no other seed changes them.
        save_frozen: Save the frozen tensors in the adapter's file too. If false, they are drawn
            again from the seed and verified by their hash.
        frozen_sha256: Hash of the frozen tensors. Set when the adapter is injected, verified when
            it is loaded.
    """

    seed: int = 0
    save_frozen: bool = False
    frozen_sha256: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        # The hash that was given, apart from the one that injection writes into the field: a
        # configuration may be used for another model after this one.
        self.expected_sha256 = self.frozen_sha256


def _digest_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def missing_hash(name: str, what: str, found: str | None) -> UserError:
    """Create the error for an adapter without a hash.

    Args:
        name: The field of adapter_config.json that is null or missing.
        what: Subject and predicate of the message: whose hash was found.
        found: The hash, or null where tensors are on the meta device.

    Returns:
        The error; its message explains how to accept the adapter deliberately.
    """
    accept = f'"{name}": "{found}"' if found else f'"{name}"'
    return UserError(
        f"{name}: adapter_config.json lacks it, so nothing shows that this adapter is as it was "
        f"trained; {what} {found or 'no values on this device'}: load the adapter as it was saved, "
        f"or, if you are sure of it, accept it by writing {accept} into adapter_config.json"
    )
