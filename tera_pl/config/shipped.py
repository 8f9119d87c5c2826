"""Files that come with the packages, by name, from any folder: configurations and MiniWorld's base.

A file on disk always wins. `tera_pl/quickstart.yaml` and its path in the repository,
`configs/quickstart.yaml`, name the same configuration.
"""

import difflib
import importlib.util
from pathlib import Path

from tera_pl.errors import UserError

PACKAGES = ("tera_pl", "datamodules")
_PREFIXES = ("tera_pl/", "configs/")


def find_config(name: str, folder: Path = Path()) -> Path | None:
    """Find a configuration on disk, or else among those that come with this package.

    Args:
        name: Its path, or the name of a shipped configuration.
        folder: What a relative path is relative to.

    Returns:
        Its path, or None.
    """
    path = folder / name
    if path.exists():
        return path
    return _shipped_configs().get(_without_prefix(name)) if name.startswith(_PREFIXES) else None


def require_config(name: str) -> Path:
    """Find a configuration as `find_config` does, from the current folder.

    Args:
        name: Its path, or the name of a shipped configuration.

    Returns:
        Its path.

    Raises:
        UserError: If there is none; the message has names that are near.
    """
    path = find_config(name)
    if path is None:
        raise UserError(f"cannot read {name}: there is no such file{near_names(name)}")
    return path


def near_names(name: str, folder: Path = Path()) -> str:
    """Suggest configurations for a name that `find_config` does not find.

    Args:
        name: The name.
        folder: What a relative path is relative to.

    Returns:
        A clause with at most three names that are near; empty if there are none.
    """
    beside = (folder / name).parent
    on_disk = beside.glob("*.yaml") if beside.is_dir() else ()
    names = [str(Path(name).parent / path.name) for path in sorted(on_disk)]
    names += [_PREFIXES[0] + shipped for shipped in sorted(_shipped_configs())]
    known = {_without_prefix(other): other for other in reversed(names)}
    near = difflib.get_close_matches(_without_prefix(name), known)
    return f": did you mean {' or '.join(known[one] for one in near)}?" if near else ""


def locate(path: str) -> str:
    """Find a folder in the home directory, or one that comes with a package.

    Args:
        path: A path such as `~/model` or `datamodules/miniworld/base`, or the id of a model on the
            Hub.

    Returns:
        The path, unchanged if it exists or no package has it.
    """
    if path.startswith("~"):
        return str(Path(path).expanduser())
    package, slash, _ = path.partition("/")
    if not slash or package not in PACKAGES or ".." in path or Path(path).exists():
        return path
    spec = importlib.util.find_spec(package)
    for found in spec.submodule_search_locations or () if spec else ():
        if (inside := Path(found).parent / path).exists():
            return str(inside)
    return path


def _without_prefix(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _shipped_configs() -> dict[str, Path]:
    """Path of every shipped configuration by its name: of the wheel, or of the repository."""
    package = Path(__file__).parents[1]
    installed = package / "shipped_configs"
    root = installed if installed.is_dir() else package.parent / "configs"
    return {path.relative_to(root).as_posix(): path for path in root.rglob("*.yaml")}
