"""Find the checkpoints that `--ckpt_path last` and `best` name."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
    """List the folders of checkpoints: the one that is set, or those below the logger's."""
    if directory := settings.get("checkpoint.dirpath"):
        yield Path(directory)
        return
    root = settings.get("trainer.default_root_dir") or "."
    logger = settings.get("trainer.logger")
    logger = logger[0] if isinstance(logger, list) and logger else logger
    if logger is False:
        yield Path(root) / "checkpoints"
        return
    given = {} if logger is None or logger is True else logger.get("init_args") or {}
    runs = Path(given.get("save_dir") or root, given.get("name") or "lightning_logs")
    version = given.get("version")
    pattern = f"version_{version}" if isinstance(version, int) else version or "*"
    yield from runs.glob(f"{pattern}/checkpoints")
