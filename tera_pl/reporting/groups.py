"""Put runs together that differ in their seeds alone."""

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
    "IA3": "(IA)³",
    "PROMPT_TUNING": "Prompt-Tuning",
    "P_TUNING": "P-Tuning",
}
FULL = "full fine-tuning"
# No value of a setting: null is one.
UNDECIDED = object()
# They change no weight, or all of them: the paper ranks them apart.
NO_ADAPTERS = {"Prompt-Tuning", "P-Tuning", FULL}


@dataclass(frozen=True)
class Group:
    """Runs of one method whose scores may be averaged.

    Args:
        method: The method's name in the literature.
        label: The name, and what sets the group apart from others of the same method.
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
    def trained(self) -> int | None:
        """Trained numbers, if the runs have counted them."""
        return self.runs[0].resources.get("trained")

    @property
    def percent(self) -> float | None:
        """The same in percent of all numbers of the model."""
        return self.runs[0].resources.get("trained_percent")


def method_of(run: Run) -> str:
    """Name the method of a run as the literature does.

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
    """Group the runs of one table: same method, same settings, any seed.

    Args:
        runs: Runs on one benchmark and backbone, whose protocols were compared.

    Returns:
        The groups, in order of method and of their first run. Where a method has several, settings
        are in the label that most of them do not share.
    """
    by_method: dict[str, dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        key = json.dumps(run.method_fields, sort_keys=True)
        by_method[method_of(run)][key].append(run)
    groups = []
    for method in sorted(by_method, key=_order):
        several = [tuple(some) for some in by_method[method].values()]
        usual = usual_values([some[0].method_fields for some in several])
        for some in several:
            fields = some[0].method_fields
            values = [
                f"{_short(name)}={_show(fields.get(name))}"
                for name, value in usual.items()
                if value is UNDECIDED or fields.get(name) != value
            ]
            label = f"{method} ({', '.join(values)})" if values else method
            groups.append(Group(method, label, some))
    return groups


def usual_values(settings: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Find what most of several settings have where they differ.

    Args:
        settings: Values by name, several times.

    Returns:
        For every name whose values differ the one that more than half have, or `UNDECIDED`.
    """
    usual = {}
    for name, values in differing(settings).items():
        counts = [sum(some.get(name) == value for some in settings) for value in values]
        most = max(counts)
        usual[name] = values[counts.index(most)] if 2 * most > len(settings) else UNDECIDED
    return usual


def differing(settings: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Find the settings that are not the same everywhere.

    Args:
        settings: Values by name, several times.

    Returns:
        The different values by name, in order of first use; null where one is not set.
    """
    found: dict[str, list[Any]] = {}
    for name in dict.fromkeys(name for some in settings for name in some):
        values: list[Any] = []
        for some in settings:
            if some.get(name) not in values:
                values.append(some.get(name))
        if len(values) > 1:
            found[name] = values
    return found


def protocol_differences(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Find what makes the scores of runs not comparable.

    Args:
        runs: Runs on one benchmark and backbone.

    Returns:
        Fields of protocol, data and base model with their different values.
    """
    return differing([run.protocol_fields for run in runs])


def check_same_protocol(runs: Sequence[Run]) -> None:
    """Refuse to put scores of different protocols into one table.

    Args:
        runs: Runs on one benchmark and backbone.

    Raises:
        UserError: If they differ in more than method and seed; it names the fields, their values,
            and a run on either side.
    """
    found = protocol_differences(runs)
    if not found:
        return
    fields = "; ".join(f"{k}: {' | '.join(map(_show, values))}" for k, values in found.items())
    name = next(iter(found))
    first = runs[0]
    other = next(
        run for run in runs if run.protocol_fields.get(name) != first.protocol_fields.get(name)
    )
    raise UserError(
        f"{first.benchmark} on {first.backbone}: runs of different protocols are not averaged: "
        f"{fields} (for example {first.path} and {other.path}): report them apart, or pass "
        "--allow_mixed"
    )


def _order(method: str) -> tuple[int, str]:
    """Prompt methods first, TeRA last, as in the paper's tables."""
    if method in NO_ADAPTERS:
        return (0, method)
    return (2 if method.startswith("TeRA") else 1, method)


def _short(name: str) -> str:
    return name.rpartition(".")[2]


def _show(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return repr(text) if "\n" in text else text
