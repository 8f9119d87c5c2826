"""Read run directories."""

import csv
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tera_pl.config.yaml_files import read_yaml
from tera_pl.errors import UserError
from tera_pl.progress import track
from tera_pl.reporting.result_files import check_form, damaged, read_results

# Settings that differ between seeds of one method.
SEED_FIELDS = {"adapter.seed", "adapter.frozen_sha256", "adapter.projection_prng_key"}
# Locations and loading speed do not belong to the evaluation protocol.
_LOCATIONS = {
    "path",
    "num_workers",
    "tokenizer",
    "tokenizer_revision",
    "tokenizer_gguf_file",
    "eval_batch_size",
}
# `settings.protocol` has them.
_IN_PROTOCOL = {"encoding", "split", "protocol"}
_BATCHES = ("batch_size", "tokens_per_batch")
_TRAINING = (
    "max_steps",
    "max_epochs",
    "limit_train_batches",
    "accumulate_grad_batches",
    "devices",
    "num_nodes",
    "gradient_clip_val",
    "precision",
    "val_check_interval",
    "check_val_every_n_epoch",
)


@dataclass(frozen=True)
class Run:
    """A tested run.

    Args:
        path: Its run directory.
        results: Content of `results.json`.
        config: Content of `config.yaml`; empty without that file.
        test_config: Content of `config_test.yaml`, the configuration of the test.
    """

    path: Path
    results: Mapping[str, Any]
    config: Mapping[str, Any] = field(default_factory=dict)
    test_config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings of the run that scored."""
        return self.results["settings"]

    @property
    def dataset(self) -> str:
        """Class name of the datamodule, for example `Commonsense170k`."""
        return str(self.settings["data"]["class"]).rpartition(".")[2]

    @property
    def backbone(self) -> str:
        """Folder or Hub id of the base model."""
        return str(self.settings["backbone"]["path"])

    @property
    def seed(self) -> tuple[Any, Any]:
        """Seed of the run and, if the method has one, of its frozen tensors."""
        adapter = self.settings["adapter"] or {}
        frozen = adapter.get("seed", adapter.get("projection_prng_key"))
        return self.config.get("seed_everything"), frozen

    @property
    def scores(self) -> dict[str, float]:
        """Finite scores of the test by name, without `test/`."""
        found = self.results["test"]["scores"]
        return {k.removeprefix("test/"): v for k, v in found.items() if math.isfinite(v)}

    @property
    def validation_scores(self) -> dict[str, float]:
        """Finite scores of the last validation of `fit` by name, without `val/`."""
        found = self.results.get("fit", {}).get("scores", {})
        scores = {k.removeprefix("val/"): v for k, v in found.items() if k.startswith("val/")}
        return {k: v for k, v in scores.items() if math.isfinite(v)}

    @property
    def resources(self) -> Mapping[str, Any]:
        """Counts and costs of training; empty if the run was only tested."""
        return self.results.get("fit", {}).get("resources", {})

    @cached_property
    def method_fields(self) -> dict[str, Any]:
        """Settings of adapter, optimizer and training except for seeds, by dotted name."""
        adapter = flatten({"adapter": self.settings["adapter"] or {"peft_type": None}})
        trainer = self.config.get("trainer", {})
        training = {key: trainer.get(key) for key in _TRAINING}
        for name in _BATCHES:
            training[name] = _init_args(self.config).get(name)
        fields = adapter | flatten(
            {
                "optimizer": self.settings["optimizer"],
                "schedule": self.settings["schedule"],
                "training": training,
            }
        )
        return {k: v for k, v in fields.items() if k not in SEED_FIELDS}

    @cached_property
    def protocol_fields(self) -> dict[str, Any]:
        """Evaluation protocol, data and base model, by dotted name.

        The values that a preset sets count, its name does not.
        """
        data, tested = _data_fields(self.config), _data_fields(self.test_config)
        limit = self.test_config.get("trainer", {}).get("limit_test_batches")
        protocol = {k: v for k, v in self.settings["protocol"].items() if k != "name"}
        backbone = self.settings["backbone"]
        return flatten(
            {
                "protocol": protocol,
                "data": data,
                "test": {
                    "data": tested if tested != data else None,
                    # None and 1.0 are the complete split; the integer 1 is one batch.
                    "limit_test_batches": None if repr(limit) == "1.0" else limit,
                },
                "backbone": {key: backbone.get(key) for key in ("path", "revision", "dtype")},
            }
        )

    @property
    def missing_scores(self) -> dict[str, str]:
        """Scores that the test could not compute, with the reasons."""
        return self.results["test"].get("missing_scores", {})

    @cached_property
    def ranks(self) -> list[dict[str, str]]:
        """Rows of `ranks.csv` with a rank, of the best checkpoint; empty without a file."""
        path = self.path / "ranks.csv"
        if not path.exists():
            return []
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        try:
            # Rows of earlier validations come before.
            last = int(rows[-1]["step"]) if rows else 0
            return [row for row in rows if int(row["step"]) == last and row["rank"]]
        except (KeyError, ValueError, TypeError) as error:
            raise damaged(path, f"no step of a row ({error})") from None

    def curve(self, tag: str) -> list[tuple[int, float]]:
        """Read a scalar over training from the event files of TensorBoard, or from `metrics.csv`.

        Args:
            tag: Its name, for example `val/loss`.

        Returns:
            Step and value, in order of steps; empty if it was never logged.
        """
        # Slow to import, and used by one figure only.
        from tensorboard.backend.event_processing import (  # type: ignore[import-untyped]
            event_accumulator,
        )

        events = event_accumulator.EventAccumulator(str(self.path), size_guidance={"scalars": 0})
        events.Reload()
        if tag in events.Tags()["scalars"]:
            return sorted({e.step: e.value for e in events.Scalars(tag)}.items())
        return _curve_of_csv(self.path / "metrics.csv", tag)


@dataclass(frozen=True)
class Omission:
    """A run that is not in the tables.

    Args:
        path: Its folder.
        reason: Why it is omitted.
    """

    path: Path
    reason: str


def read_runs(folders: Sequence[Path]) -> tuple[list[Run], list[Omission]]:
    """Read every run below several folders.

    Args:
        folders: Run directories, or folders that contain them at any depth.

    Returns:
        The tested runs, and the omitted ones: failed, unfinished and untested runs, and those that
        a later run with the same settings and seed replaces.

    Raises:
        UserError: If a folder is missing or none contains a tested run.
    """
    runs: list[Run] = []
    omissions: list[Omission] = []
    for path in track(sorted(_find(folders), key=_natural), "reading runs"):
        run = _read(path)
        if isinstance(run, Run):
            runs.append(run)
        else:
            omissions.append(run)
    if not runs:
        names = ", ".join(str(folder) for folder in folders)
        raise UserError(
            f"no tested run in {names}: expected folders of `fit` and `test` with results.json "
            f"({len(omissions)} without a test)"
        )
    kept, replaced = _keep_latest(runs)
    return kept, omissions + replaced


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to dotted names, without values that are None or empty.

    Args:
        values: Settings.
        prefix: Prefix of every name.

    Returns:
        Values by name.

    Example:
        >>> flatten({"a": {"b": 1, "c": None}, "d": [2]})
        {'a.b': 1, 'd': [2]}
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        elif value is not None and value != []:
            flat[f"{prefix}{key}"] = value
    return flat


def _curve_of_csv(path: Path, tag: str) -> list[tuple[int, float]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row.get(tag)]
    try:
        return sorted({int(row["step"]): float(row[tag]) for row in rows}.items())
    except (KeyError, ValueError, TypeError) as error:
        raise damaged(path, f"no step or no number in a row ({error})") from None


def _find(folders: Sequence[Path]) -> set[Path]:
    found: set[Path] = set()
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"RUNS: no folder {folder}: expected folders that contain runs")
        for name in ("results.json", "config.yaml"):
            found |= {file.parent for file in folder.rglob(name)}
        # A run of a study that failed before it had a run directory has left its log.
        logs = {file.parent for file in folder.rglob("fit.log")}
        found |= {path for path in logs if not any(run.parent == path for run in found)}
    return found


def _read(path: Path) -> Run | Omission:
    if not (path / "results.json").exists():
        return Omission(path, "no results.json: failed, or not finished")
    results = read_results(path / "results.json")
    if "test" not in results:
        return Omission(path, "trained, not tested")
    run = Run(path, results, *(_yaml(path / f"config{end}.yaml") for end in ("", "_test")))
    for name, config in (("config.yaml", run.config), ("config_test.yaml", run.test_config)):
        sections = ("trainer", "data")
        check_form(config, {key: {} for key in sections if key in config}, path / name, "it")
        check_form(_init_args(config), {}, path / name, "data.init_args")
    return run


def _yaml(path: Path) -> dict[str, Any]:
    return read_yaml(path) if path.exists() else {}


def _init_args(config: Mapping[str, Any]) -> Mapping[str, Any]:
    return config.get("data", {}).get("init_args", {})


def _data_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    ignored = _LOCATIONS | _IN_PROTOCOL | set(_BATCHES)
    return {k: v for k, v in _init_args(config).items() if k not in ignored}


def _keep_latest(runs: Sequence[Run]) -> tuple[list[Run], list[Omission]]:
    """Count a seed once: of runs with equal settings and seed, the last folder is kept."""
    latest: dict[str, Run] = {}
    replaced = []
    for run in runs:
        key = json.dumps(
            [run.dataset, run.seed, run.method_fields, run.protocol_fields], sort_keys=True
        )
        if key in latest:
            older = latest[key].path
            replaced.append(Omission(older, f"same settings and seed as the later {run.path}"))
        latest[key] = run
    return list(latest.values()), replaced


def _natural(path: Path) -> list[tuple[int, int | str]]:
    """Return a sort key that puts version_10 after version_9."""
    parts = re.split(r"(\d+)", str(path))
    return [(0, int(part)) if part.isdigit() else (1, part) for part in parts]
