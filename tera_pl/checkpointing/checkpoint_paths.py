"""Find the checkpoints that `--ckpt_path last` and `best` name."""

import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tera_pl.checkpointing.run_directory import LOCAL, runs_without_folder

KEYWORDS = ("last", "best")


def find_checkpoint(keyword: str, settings: Any) -> Path | None:
    """Find the newest checkpoint of the runs that a configuration writes.

    Lightning has both keywords too, but looks in the folder of the new run, which is empty.

    Args:
        keyword: `last` or `best`.
        settings: The configuration of a subcommand, parsed and not instantiated.

    Returns:
        The file of this name that was written last, or None.
    """
    name = "last" if keyword == "last" else settings.get("checkpoint.filename") or "best"
    found = [folder / f"{name}.ckpt" for folder in _folders(settings)]
    return max(
        (path for path in found if path.is_file()), key=lambda p: p.stat().st_mtime_ns, default=None
    )


def _folders(settings: Any) -> Iterator[Path]:
    """List the folders of checkpoints: the one that is set, or those of the runs."""
    if directory := settings.get("checkpoint.dirpath"):
        yield Path(directory)
        return
    root = settings.get("trainer.default_root_dir")
    logger = settings.get("trainer.logger")
    specs = logger if isinstance(logger, list) else [logger]
    if specs[:1] in ([None], [True]):
        specs = [{"class_path": "lightning.pytorch.loggers.TensorBoardLogger"}]
    elif specs[:1] == [False]:
        specs = []
    classes = [pkgutil.resolve_name(spec["class_path"]) for spec in specs]
    local = [spec for spec, cls in zip(specs, classes, strict=True) if issubclass(cls, LOCAL)]
    if not local:
        runs = runs_without_folder(root, [cls.__name__ for cls in classes])
        yield from runs.glob("version_*/checkpoints")
        return
    given = local[0].get("init_args") or {}
    runs = Path(given.get("save_dir") or root or "runs", given.get("name") or "lightning_logs")
    version = given.get("version")
    pattern = f"version_{version}" if isinstance(version, int) else version or "*"
    yield from runs.glob(f"{pattern}/checkpoints")
