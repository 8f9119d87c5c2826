"""Group runs that differ only in their seeds."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tera_pl.errors import UserError
from tera_pl.reporting.runs import Run

NAMES = {
    "TERA": "TeRA",
    "LORA": "LoRA",
    "HIRA": "HiRA",
    "VERA": "VeRA",
    "RANDLORA": "RandLoRA",
    "LORETTA": "LoRETTA",
    "MORA": "MoRA",
    "LOTR": "LoTR",
    "LORAXS": "LoRA-XS",
    "NOLA": "NOLA",
    "IA3": "(IA)³",
    "ROAD": "RoAd",
    "VBLORA": "VB-LoRA",
    "FOURIERFT": "FourierFT",
    "UNILORA": "Uni-LoRA",
    "TINYLORA": "TinyLoRA",
    "WAVEFT": "WaveFT",
    "PROMPT_TUNING": "Prompt-Tuning",
    "P_TUNING": "P-Tuning",
}
FULL = "full fine-tuning"
# Not None, which is a value of a setting.
UNDECIDED = object()
# They change no weight, or all of them: the paper does not rank them among adapters.
NO_ADAPTERS = {"Prompt-Tuning", "P-Tuning", FULL}


@dataclass(frozen=True)
class Group:
    """Runs with equal settings and different seeds, whose scores may be averaged.

    Args:
        method: The method's name in the literature.
        label: The name, and the settings in which it differs from other groups of the method.
        runs: Its runs, one per seed.
    """

    method: str
    label: str
    runs: tuple[Run, ...]

    @property
    def fields(self) -> dict[str, Any]:
        """Settings that its runs share, by dotted name."""
        return self.runs[0].method_fields

    @property
    def trainable_params(self) -> int | None:
        """Number of trainable parameters, if the runs have counted them."""
        return self.runs[0].resources.get("trained")

    @property
    def trainable_percent(self) -> float | None:
        """Trainable parameters in percent of all parameters of the model."""
        return self.runs[0].resources.get("trained_percent")


def method_of(run: Run) -> str:
    """Return the name of a run's method in the literature.

    Args:
        run: The run.

    Returns:
        A name such as `TeRA`, `TeRA_iden` (the paper's ablation with identity factors) or `DoRA`.
    """
    adapter = run.settings["adapter"]
    if adapter is None:
        return FULL
    kind = str(adapter["peft_type"])
    if kind == "TERA" and adapter.get("factor_init") == "identity":
        return "TeRA_iden"
    if kind == "LORA" and adapter.get("use_dora"):
        return "DoRA"
    return NAMES.get(kind, kind)


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Group the runs of one table by method and settings.

    Args:
        runs: Runs on one dataset and base model, whose protocols were compared.

    Returns:
        The groups, in order of method and of their first run. If a method has several groups, a
        label lists the settings in which its group differs from most of the others.
    """
    by_method: dict[str, dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        key = json.dumps(run.method_fields, sort_keys=True)
        by_method[method_of(run)][key].append(run)
    groups = []
    for method in sorted(by_method, key=_order):
        all_seeds = [tuple(seeds) for seeds in by_method[method].values()]
        majority = majority_values([seeds[0].method_fields for seeds in all_seeds])
        for seeds in all_seeds:
            fields = seeds[0].method_fields
            values = [
                f"{_short(name)}={_format(fields.get(name))}"
                for name, value in majority.items()
                if value is UNDECIDED or fields.get(name) != value
            ]
            label = f"{method} ({', '.join(values)})" if values else method
            groups.append(Group(method, label, seeds))
    return groups


def majority_values(settings: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Find the value that most runs have of every setting in which they differ.

    Args:
        settings: Settings by name, of every run.

    Returns:
        For every name whose values differ the one that more than half have, or `UNDECIDED`.
    """
    majority = {}
    for name, values in differing_settings(settings).items():
        counts = [sum(each.get(name) == value for each in settings) for value in values]
        most = max(counts)
        majority[name] = values[counts.index(most)] if 2 * most > len(settings) else UNDECIDED
    return majority


def differing_settings(settings: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Find the settings in which runs differ.

    Args:
        settings: Settings by name, of every run.

    Returns:
        The different values by name, in order of first use; None for a run without the setting.
    """
    found: dict[str, list[Any]] = {}
    for name in dict.fromkeys(name for each in settings for name in each):
        values: list[Any] = []
        for each in settings:
            if each.get(name) not in values:
                values.append(each.get(name))
        if len(values) > 1:
            found[name] = values
    return found


def protocol_differences(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Find the fields that make the scores of runs incomparable.

    Args:
        runs: Runs on one dataset and base model.

    Returns:
        Fields of evaluation protocol, data and base model with their different values.
    """
    return differing_settings([run.protocol_fields for run in runs])


def check_same_protocol(runs: Sequence[Run]) -> None:
    """Check that the scores of runs may stand in one table.

    Args:
        runs: Runs on one dataset and base model.

    Raises:
        UserError: If their evaluation protocols differ; it names the fields, their values, and two
            runs that differ.
    """
    found = protocol_differences(runs)
    if not found:
        return
    fields = "; ".join(f"{k}: {' | '.join(map(_format, values))}" for k, values in found.items())
    name = next(iter(found))
    first = runs[0]
    other = next(
        run for run in runs if run.protocol_fields.get(name) != first.protocol_fields.get(name)
    )
    raise UserError(
        f"{first.dataset} on {first.backbone}: runs of different protocols are not averaged: "
        f"{fields} (for example {first.path} and {other.path}): report them "
        "separately, or pass --allow_mixed"
    )


def _order(method: str) -> tuple[int, str]:
    """Sort prompt methods first and TeRA last, as in the paper's tables."""
    if method in NO_ADAPTERS:
        return (0, method)
    return (2 if method.startswith("TeRA") else 1, method)


def _short(name: str) -> str:
    return name.rpartition(".")[2]


def _format(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return repr(text) if "\n" in text else text
