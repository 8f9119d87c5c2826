"""The page of a report, with its tables and figures."""

import datetime
import os
import platform
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tera_pl.checkpointing.atomic_writes import write_atomically
from tera_pl.reporting.figures import Drawing
from tera_pl.reporting.groups import Group, differing_settings
from tera_pl.reporting.loss_tables import LossRow, losses_to_markdown
from tera_pl.reporting.markup import code, code_block, html_text, markdown
from tera_pl.reporting.runs import Omission, Run
from tera_pl.reporting.tables import Table, to_markdown

# Stated by the paper.
PAPER_SEEDS = 5
PAPER_BACKBONES = ("Llama-2-7b-hf", "Meta-Llama-3-8B")
PAPER_DATASETS = ("Commonsense170k", "ConvAI2", "Math10k")
PAPER_SETTINGS: dict[str, Any] = {
    "optimizer.class": "AdamW",
    "schedule.warmup_steps": 100,
    "adapter.target_modules": ["q_proj", "v_proj"],
}
MARKS = (
    "Mean ± standard deviation over seeds, in percent. **Best** and <u>second best</u> are marked "
    "among adapters, as in the paper: prompt methods, full fine-tuning and published scores are "
    "not ranked. — is an unknown value."
)

LOSSES = (
    "Loss in nats per supervised token, of all records together, and perplexity, its exponential; "
    "± is the standard error over records, by the delta method. The loss of several seeds is their "
    "mean, with its standard deviation over seeds. The last column compares the losses of the same "
    "records: minus those of the method with the lowest loss. Validation is the last one of `fit`."
)


@dataclass(frozen=True)
class Section:
    """The results on one dataset and base model.

    Args:
        name: Prefix of its files.
        table: The table.
        losses: Losses of validation and test; empty for runs without them.
        groups: Its groups of runs.
        drawings: Its figures, and the reasons for missing ones.
        mixed: Protocol fields in which runs differ, with their values.
    """

    name: str
    table: Table
    losses: tuple[LossRow, ...]
    groups: tuple[Group, ...]
    drawings: tuple[Drawing, ...]
    mixed: Mapping[str, Sequence[Any]]

    @property
    def dataset(self) -> str:
        """Class name of the datamodule."""
        return self.runs[0].dataset

    @property
    def backbone(self) -> str:
        """Folder or Hub id of the base model."""
        return self.runs[0].backbone

    @property
    def runs(self) -> list[Run]:
        """All runs of its groups."""
        return [run for group in self.groups for run in group.runs]


def write_page(
    path: Path, command: str, sections: Sequence[Section], omissions: Sequence[Omission]
) -> None:
    """Write the page of a report.

    Args:
        path: The file to write.
        command: The command line that makes the report.
        sections: One per dataset and base model.
        omissions: Runs that are not in the tables.
    """
    parts = ["# Report", *_origin(command, sections)]
    for section in sections:
        parts += [f"## {markdown(f'{section.table.layout.title}, {section.backbone}')}", MARKS]
        parts.append(to_markdown(section.table).rstrip("\n"))
        parts.append(f"Unrounded: [{section.name}.csv]({section.name}.csv).")
        if section.mixed:
            parts.append("These runs have **different protocols**; --allow_mixed averages them:")
            parts.append(_bullets(f"{code(k)}: {_values(v)}" for k, v in section.mixed.items()))
        if section.losses:
            parts += ["### Loss and perplexity", LOSSES, losses_to_markdown(section.losses)]
            parts.append(f"Unrounded: [{section.name}-losses.csv]({section.name}-losses.csv).")
        parts += ["### Figures", *_figures(section)]
        parts += ["### What differs from the paper", _bullets(_differences(section))]
        parts += ["### Settings", *_settings(section)]
    if omissions:
        parts += ["## Runs that are not in the tables", *_omitted(omissions)]
    write_atomically(path, "\n\n".join(parts) + "\n")


def _origin(command: str, sections: Sequence[Section]) -> Iterator[str]:
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    yield f"Made on {today} on a machine with {os.cpu_count()} CPU cores ({platform.system()})."
    yield code_block(command)
    environments = [run.results.get("environment", {}) for s in sections for run in s.runs]
    found: dict[str, list[str]] = defaultdict(list)
    for environment in environments:
        versions = {**environment.get("versions", {}), "python": environment.get("python")}
        found["device"].append(str(environment.get("device")))
        for name, version in versions.items():
            found[name].append(str(version))
    rows = [markdown(f"{name} {', '.join(dict.fromkeys(v))}") for name, v in found.items()]
    yield f"{len(environments)} runs, made with: " + "; ".join(rows) + "."


def _figures(section: Section) -> Iterator[str]:
    for drawing in section.drawings:
        if drawing.figure:
            file = f"{section.name}-{drawing.name}"
            caption = markdown(drawing.caption)
            yield f"![{caption}]({file}.png)\n\n{caption}"
    missing = [drawing for drawing in section.drawings if not drawing.figure]
    if missing:
        yield "Missing:\n\n" + _bullets(
            f"{code(drawing.name)}: {markdown(drawing.missing)}." for drawing in missing
        )


def _differences(section: Section) -> Iterator[str]:
    """List known differences; settings that the paper does not state cannot be compared."""
    if section.dataset not in PAPER_DATASETS:
        yield f"The paper does not use {markdown(section.dataset)}."
    if Path(section.backbone).name not in PAPER_BACKBONES:
        backbone = markdown(section.backbone)
        yield f"The base model is {backbone}, not {' or '.join(PAPER_BACKBONES)}."
    counts = sorted({len(group.runs) for group in section.groups})
    if counts != [PAPER_SEEDS]:
        seeds = ", ".join(map(str, counts))
        yield f"Seeds per method: {seeds}; the paper's scores of TeRA are means of {PAPER_SEEDS}."
    for name, expected in PAPER_SETTINGS.items():
        values = _unique(g.fields.get(name) for g in section.groups if name in g.fields)
        values = [sorted(value) if isinstance(value, list) else value for value in values]
        if any(value != expected for value in values):
            yield f"`{name}`: {_values(_unique(values))}; the paper has {expected}."
    presets = _unique(run.settings["protocol"].get("name") for run in section.runs)
    if presets != ["tera_paper"]:
        yield (
            f"Protocol presets: {_values(presets)}; `tera_paper` is the one that follows the paper."
        )
    yield (
        "The paper states no learning rate, batch size, tensorization, decoding or rank tolerance: "
        "whether these agree is unknown."
    )


def _settings(section: Section) -> Iterator[str]:
    """List the settings that all runs share, and those of every method."""
    fields = [group.fields for group in section.groups]
    different = differing_settings(fields)
    shared = {k: v for k, v in section.runs[0].protocol_fields.items() if k not in section.mixed}
    shared |= {k: v for k, v in fields[0].items() if k not in different}
    lines = (f"{code(k)}: {_values([v])}" for k, v in shared.items())
    yield "Shared by all runs:\n\n" + _bullets(lines)
    yield "By method:\n\n" + _bullets(
        markdown(
            f"{group.label}: "
            + ", ".join(
                f"{k.removeprefix('adapter.')}={v}"
                for k, v in group.fields.items()
                if k in different
            )
        )
        for group in section.groups
        if different
    )


def _omitted(omissions: Sequence[Omission]) -> Iterator[str]:
    by_reason: dict[str, list[Path]] = defaultdict(list)
    for omission in omissions:
        by_reason[omission.reason].append(omission.path)
    for reason, paths in by_reason.items():
        listed = _bullets(code(path) for path in paths)
        # A learning-rate search leaves dozens.
        yield (
            f"<details><summary>{len(paths)}: {html_text(reason)}</summary>\n\n{listed}\n\n"
            "</details>"
            if len(paths) > 5
            else f"{len(paths)}: {markdown(reason)}\n\n{listed}"
        )


def _values(values: Sequence[Any]) -> str:
    shown = (repr(value) if isinstance(value, str) and "\n" in value else value for value in values)
    return " | ".join(markdown(value) for value in shown)


def _unique(values: Iterable[Any]) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
