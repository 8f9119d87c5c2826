"""Files that come with this package, from any folder: MiniWorld's base."""

from pathlib import Path


def locate(path: str) -> str:
    """Find a folder in the home directory, or one that comes with this package.

    Args:
        path: A path such as `~/model` or `datamodules/miniworld/base`, or the id of a tokenizer on
            the Hub.

    Returns:
        The path, unchanged if it exists or this package does not have it.
    """
    if path.startswith("~"):
        return str(Path(path).expanduser())
    package = Path(__file__).parent
    if not path.startswith(f"{package.name}/") or ".." in path or Path(path).exists():
        return path
    inside = package.parent / path
    return str(inside) if inside.exists() else path
