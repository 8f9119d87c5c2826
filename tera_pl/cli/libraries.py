"""What libraries print: only what a person can act on."""

import logging
import os
import re
import sys
import warnings
from pathlib import Path

import lightning
from huggingface_hub.utils.tqdm import disable_progress_bars, enable_progress_bars
from transformers.utils.logging import disable_progress_bar, enable_progress_bar

# Warnings about the internals of a library, or about settings that are intended here.
NOISE = (
    ".*does not have many workers.*",
    ".*treespec, LeafSpec.*",
    ".*gradient_checkpointing.* is deprecated.*",
    ".*args parameter is intended to run from within Python.*",
    ".*overridden `transfer_batch_to_device` in `LightningModule`.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    # `keep_metrics` keeps them.
    ".*Previous log files in this directory will be deleted.*",
)
# A line per layer and step, about casts that 8-bit layers always make.
SILENT = ("bitsandbytes.autograd._functions",)
# Loggers of libraries with nothing but banners below a warning.
BANNERS = (
    "lightning.fabric.utilities.seed",
    "lightning.fabric.utilities.distributed",
    "lightning.pytorch.accelerators.cuda",
    "mlflow.store.db.utils",
)
# Why a run ends before its goal.
_KEPT = re.compile(r"stopped: (?!`max_)|[Tt]ime limit|fast_dev_run")
_LIGHTNING = str(Path(lightning.__file__).parent)
_PACKAGES = tuple(str(Path(__file__).parents[2] / name) for name in ("tera_pl", "datamodules"))


class _InformationFilter(logging.Filter):
    """Drop Lightning's own information; that of callbacks and datamodules has the same logger."""

    quiet = False

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno > logging.INFO:
            return True
        if self.quiet:
            return False
        ours = not record.pathname.startswith(_LIGHTNING)
        return ours or _KEPT.search(record.getMessage()) is not None


_FILTER = _InformationFilter()


def configure_output(*, quiet: bool = False, progress: bool = True) -> None:
    """Set what libraries print in this process; a second call replaces the settings.

    Args:
        quiet: Whether information is dropped too, and not only banners.
        progress: Whether libraries may show progress bars; a file never gets any.
    """
    for message in NOISE:
        warnings.filterwarnings("ignore", message=message)
    warnings.formatwarning = _format_warning
    for name in BANNERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in SILENT:
        logging.getLogger(name).setLevel(logging.ERROR)
    _FILTER.quiet = quiet
    if quiet:
        os.environ.setdefault("WANDB_SILENT", "true")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_FILTER)
    shown = progress and not quiet and sys.stderr.isatty()
    (enable_progress_bar if shown else disable_progress_bar)()
    (enable_progress_bars if shown else disable_progress_bars)()


def _format_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """Format a warning; where this project warns, its place in the code says nothing to a user."""
    if filename.startswith(_PACKAGES):
        return f"warning: {message}\n"
    return f"{filename}:{lineno}: {message}\n"
