"""Log the ranks of the weight updates."""

import csv
import io
import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from tera_pl.analysis.delta_weights import adapted_layers, delta_weight_shape, layer_singular_values
from tera_pl.analysis.spectra import Spectrum, summarize_values
from tera_pl.callbacks.logger_content import log_figure
from tera_pl.checkpointing.atomic_writes import open_atomically, write_atomically
from tera_pl.checkpointing.run_directory import run_directory
from tera_pl.errors import UserError
from tera_pl.extras import is_installed
from tera_pl.progress import track

if TYPE_CHECKING:
    from matplotlib.figure import Figure


# Updates are small if this many multiplications decompose them all, counted as the product of rows,
# columns and the smaller of both: docs/loggers.md has the time that it takes.
SMALL = 10_000_000_000


class RankLogger(Callback):
    """Log numerical, stable and entropy rank of every weight update.

    Writes scalars `ranks/<module>/<kind>` (mean over the layers), a figure per layer at the end,
    `ranks.csv` with one row per layer and logged step, and `singular_values.npz` with the values of
    the last rows by layer. The last rows are those of the best checkpoint. The decomposition of a
    4096 x 4096 update that is not low-rank takes seconds, so ranks are logged after validations
    only where updates are small. One update is in memory at a time. A layer without ranks, because
    its update has a NaN or depends on the input, has a row with the reason in its column `note`,
    and a warning names it. Every failure here is a warning, so that a finished run is not lost.

    Args:
        every_n_validations: Log after every `n` validations, and at the end; 0 logs at the end
            only, null after every validation if the updates are small (about 2 s on one core).
    """

    def __init__(self, every_n_validations: int | None = None) -> None:
        if every_n_validations is not None and every_n_validations < 0:
            raise UserError(f"ranks.every_n_validations is {every_n_validations}: expected >= 0")
        self.every_n_validations = every_n_validations
        self._validations = 0
        self._logged: set[int] = set()

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Log after every `n` validations."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        every = self.every_n_validations
        if every is None:
            every = 1 if _are_small(pl_module.model) else 0
        self._validations += 1
        if every and self._validations % every == 0:
            self._log(trainer, pl_module, trainer.global_step)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Log the ranks of the best checkpoint, which `BestAdapter` has loaded."""
        self._log(trainer, pl_module, pl_module.checkpoint_step, end=True)

    def _log(self, trainer: Trainer, task: Any, step: int, *, end: bool = False) -> None:
        try:
            self._write(trainer, task, step, end=end)
        except Exception as error:
            if os.environ.get("TERA_PL_DEBUG"):
                raise
            rank_zero_warn(f"ranks are not logged: {_describe(error)}")

    def _write(self, trainer: Trainer, task: Any, step: int, *, end: bool) -> None:
        folder = run_directory(trainer)
        # Some updates depend on the base weight, which all processes gather together.
        if not trainer.is_global_zero and task.device_mesh is None:
            return
        values, spectra, failures = _decompose(task.model)
        if end:
            _warn(failures)
        if not trainer.is_global_zero or not (spectra or failures):
            return
        _append_csv(folder / "ranks.csv", step, spectra, failures)
        if not spectra:
            return
        arrays: dict[str, Any] = {name: decomposed.numpy() for name, decomposed in values.items()}
        with open_atomically(folder / "singular_values.npz") as file:
            np.savez(file, **arrays)
        by_module: dict[str, list[Spectrum]] = defaultdict(list)
        for name, spectrum in spectra.items():
            by_module[name.rsplit(".", 1)[-1]].append(spectrum)
        for logger in trainer.loggers if step not in self._logged else ():
            logger.log_metrics(_means(by_module), step=step)
        self._logged.add(step)
        # Ranks are in files and scalars already.
        if end and is_installed("matplotlib"):
            log_figure(trainer.loggers, "ranks/per_layer", _draw(by_module), step)


def _are_small(model: nn.Module) -> bool:
    """Whether the decomposition of all updates takes little time beside a validation."""
    shapes = [delta_weight_shape(layer) for layer in adapted_layers(model).values()]
    return sum(rows * columns * min(rows, columns) for rows, columns in shapes) <= SMALL


def _decompose(
    model: nn.Module,
) -> tuple[dict[str, Tensor], dict[str, Spectrum], dict[str, str]]:
    """Singular values, ranks and reasons for missing ranks by layer, with reports of progress."""
    values: dict[str, Tensor] = {}
    spectra: dict[str, Spectrum] = {}
    failures: dict[str, str] = {}
    layers = adapted_layers(model)
    for name, layer in track(list(layers.items()), "ranks of weight updates"):
        try:
            decomposed = layer_singular_values(layer).float()
            spectra[name] = summarize_values(decomposed, delta_weight_shape(layer))
            values[name] = decomposed
        # Methods of other packages raise any exception, and the run is finished.
        except Exception as error:  # noqa: BLE001
            failures[name] = _describe(error)
    return values, spectra, failures


def _describe(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


def _warn(failures: Mapping[str, str]) -> None:
    """Warn once per reason."""
    for reason in dict.fromkeys(failures.values()):
        names = [name for name, found in failures.items() if found == reason]
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        rank_zero_warn(f"no ranks of {names[0]}{more}: {reason}")


def _means(by_module: dict[str, list[Spectrum]]) -> dict[str, float]:
    kinds = ("rank", "stable_rank", "entropy_rank", "hira_rank")
    return {
        f"ranks/{module}/{kind}": sum(getattr(s, kind) for s in spectra) / len(spectra)
        for module, spectra in by_module.items()
        for kind in kinds
    }


def _append_csv(
    path: Path, step: int, spectra: Mapping[str, Spectrum], failures: Mapping[str, str]
) -> None:
    columns = ["step", "layer", "module", *(field.name for field in fields(Spectrum)), "note"]
    rows: list[dict[str, Any]] = []
    if path.exists():
        older = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline=""))
        # A resumed run validates again, and the best checkpoint's rows come last.
        rows = [row for row in older if row["step"] != str(step)]
    found = {name: asdict(spectrum) for name, spectrum in spectra.items()}
    found |= {name: {"note": reason} for name, reason in failures.items()}
    for name, row in found.items():
        layer, _, module = name.rpartition(".")
        rows.append({"step": step, "layer": layer, "module": module, **row})
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue())


def _draw(by_module: dict[str, list[Spectrum]]) -> "Figure":
    """Plot the ranks of every layer as in the paper's Fig. 3, each module in a color.

    TensorBoard scales images to a width of about 350 pixels, and repeats or drops pixels.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, ScalarFormatter

    from tera_pl.reporting.drawing import style

    figure = Figure(figsize=(3.5, 3.2), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    for index, (module, spectra) in enumerate(by_module.items()):
        layers, color = range(len(spectra)), style(index)["color"]
        axes.plot(layers, [s.rank for s in spectra], "o-", color=color, label=module, markersize=4)
        stable = [s.stable_rank for s in spectra]
        axes.plot(layers, stable, "s:", color=color, markersize=4)
        axes.axhline(spectra[0].max_rank, color=color, linestyle="--", linewidth=1)
    for kind, look in (("rank", "o-"), ("stable rank", "s:"), ("largest possible", "--")):
        axes.plot([], [], look, color="gray", label=kind, markersize=4)
    axes.set(xlabel="layer", title="ranks of the weight updates")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    # Full and low ranks on one axis, which includes 0.
    axes.set_yscale("symlog", base=2, linthresh=1)
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure
