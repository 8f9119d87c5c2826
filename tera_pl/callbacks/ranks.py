"""Log the ranks of the weight updates."""

import csv
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from matplotlib.figure import Figure

from tera_pl.analysis import Spectrum, iter_updates, summarize
from tera_pl.callbacks.run_folder import run_folder, tensorboard


class RankLogger(Callback):
    """Log numerical, stable and entropy rank of every weight update.

    Writes scalars `ranks/<module>/<kind>` (mean over the layers), a figure per layer, and
    `ranks.csv` with one row per layer and point. A decomposition of a 4096 x 4096 update takes
    seconds, so ranks are taken at the end of training and, if asked, every so many validations.

    Args:
        every_n_validations: Also log after every so many validations; 0 logs at the end only.
    """

    def __init__(self, every_n_validations: int = 0) -> None:
        if every_n_validations < 0:
            raise ValueError(f"ranks.every_n_validations is {every_n_validations}: expected >= 0")
        self.every_n_validations = every_n_validations
        self._validations = 0

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Log at the chosen validations."""
        if trainer.sanity_checking or trainer.state.fn != "fit" or not self.every_n_validations:
            return
        self._validations += 1
        if self._validations % self.every_n_validations == 0:
            self._log(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Log the ranks of the trained adapter."""
        self._log(trainer, pl_module)

    def _log(self, trainer: Trainer, pl_module: Any) -> None:
        folder = run_folder(trainer)
        if not trainer.is_global_zero:
            return
        spectra = {name: summarize(delta) for name, delta in iter_updates(pl_module.model)}
        if not spectra:
            return
        step = trainer.global_step
        _append_csv(folder / "ranks.csv", step, spectra)
        by_module: dict[str, list[Spectrum]] = defaultdict(list)
        for name, spectrum in spectra.items():
            by_module[name.rsplit(".", 1)[-1]].append(spectrum)
        for logger in trainer.loggers:
            logger.log_metrics(_means(by_module), step=step)
        for writer in tensorboard(trainer):
            writer.add_figure("ranks/per_layer", _draw(by_module), global_step=step)


def _means(by_module: dict[str, list[Spectrum]]) -> dict[str, float]:
    kinds = ("rank", "stable_rank", "entropy_rank")
    return {
        f"ranks/{module}/{kind}": sum(getattr(s, kind) for s in spectra) / len(spectra)
        for module, spectra in by_module.items()
        for kind in kinds
    }


def _append_csv(path: Path, step: int, spectra: dict[str, Spectrum]) -> None:
    new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="") as file:
        writer: csv.DictWriter | None = None
        for name, spectrum in spectra.items():
            layer, _, module = name.rpartition(".")
            row = {"step": step, "layer": layer, "module": module, **asdict(spectrum)}
            if writer is None:
                writer = csv.DictWriter(file, row)
                if new:
                    writer.writeheader()
            writer.writerow(row)


def _draw(by_module: dict[str, list[Spectrum]]) -> Figure:
    """Rank of every layer as in the paper's Fig. 3, with the largest possible rank dashed."""
    figure = Figure(figsize=(4.0 * len(by_module), 3.2), layout="constrained")
    for index, (module, spectra) in enumerate(by_module.items(), start=1):
        axes = figure.add_subplot(1, len(by_module), index)
        layers = range(len(spectra))
        axes.plot(layers, [s.rank for s in spectra], "o-", color="#0072B2", label="numerical rank")
        axes.plot(
            layers, [s.stable_rank for s in spectra], "s:", color="#D55E00", label="stable rank"
        )
        axes.axhline(spectra[0].max_rank, color="grey", linestyle="--", label="largest possible")
        axes.set(title=module, xlabel="layer", ylabel="rank")
        axes.set_ylim(bottom=0)
        axes.legend(fontsize="small")
    return figure
