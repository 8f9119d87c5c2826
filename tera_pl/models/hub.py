"""Check that a model is available locally or on the Hub, before minutes of retries."""

import json
import urllib.error
import urllib.request
from pathlib import Path

from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
from transformers.utils import (
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
)

from tera_pl.config.shipped import locate
from tera_pl.errors import UserError

TIMEOUT_S = 5
CONFIG = "config.json"


def check_available(path: str, revision: str | None, file: str = CONFIG) -> None:
    """Check that a model is on this machine or that the Hub is reachable.

    Args:
        path: A folder, or the id of a model on the Hub.
        revision: Branch, tag or commit on the Hub.
        file: The file that describes the model: its configuration, or its GGUF file.

    Raises:
        UserError: If `path` is neither a folder nor an id, or the Hub is needed and unreachable.
    """
    if Path(locate(path)).is_dir():
        return
    try:
        validate_repo_id(path)
    except HFValidationError:
        raise UserError(
            f"model.init_args.backbone.path: no folder {path!r}: expected a folder in the "
            "Hugging Face format, or the id of a model on the Hub"
        ) from None
    if isinstance(try_to_load_from_cache(path, file, revision=revision), str):
        return
    if reason := _why_unreachable():
        named = f"{path}@{revision}" if revision else path
        raise UserError(
            f"model.init_args.backbone.path: no folder {path!r}, {named} is not in the "
            f"cache {constants.HF_HUB_CACHE}, and {reason}: {how_to_download(path, revision)}"
        )


def find_commit(path: str, revision: str | None, file: str = CONFIG) -> str | None:
    """Find the commit of the cached version of a model on the Hub.

    Args:
        path: A folder, or the id of a model on the Hub that was loaded before.
        revision: Branch, tag or commit on the Hub.
        file: The file that describes the model.

    Returns:
        Forty hexadecimal digits, or None for a folder.
    """
    folder = None if Path(locate(path)).is_dir() else find_folder(path, revision, file)
    return folder.name if folder else None


def find_folder(path: str, revision: str | None, file: str = CONFIG) -> Path | None:
    """Find the folder with the files of a model.

    Args:
        path: A folder, or the id of a model on the Hub, loaded before.
        revision: Branch, tag or commit on the Hub.
        file: The file that describes the model.

    Returns:
        The folder itself, `snapshots/<commit>` in the Hub's cache, or None.
    """
    if Path(locate(path)).is_dir():
        return Path(locate(path))
    cached = try_to_load_from_cache(path, file, revision=revision)
    return Path(cached).parent if isinstance(cached, str) else None


def weight_files(folder: Path) -> list[Path]:
    """List the files of weights that transformers would load from a folder.

    Args:
        folder: Folder in the Hugging Face format.

    Returns:
        Paths of safetensors or, where there are none, of pickles.
    """
    for single, index in (
        (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME),
        (WEIGHTS_NAME, WEIGHTS_INDEX_NAME),
    ):
        if (folder / single).is_file():
            return [folder / single]
        if (folder / index).is_file():
            content = json.loads((folder / index).read_text(encoding="utf-8"))
            return [folder / name for name in sorted(set(content["weight_map"].values()))]
    return []


def how_to_download(path: str, revision: str | None) -> str:
    """Explain how to use a model on a machine without a network.

    Args:
        path: Id of the model.
        revision: Branch, tag or commit.

    Returns:
        A clause for an error message.
    """
    pinned = f" --revision {revision}" if revision else ""
    return (
        f"download it where there is a network (hf download {path}{pinned}), or set "
        "model.init_args.backbone.path to a folder"
    )


def _why_unreachable() -> str | None:
    if constants.is_offline_mode():
        return "HF_HUB_OFFLINE is set"
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=TIMEOUT_S).close()
    except urllib.error.HTTPError:
        return None  # the Hub is reachable
    except OSError as error:
        return f"{constants.ENDPOINT} does not answer ({getattr(error, 'reason', error)})"
    return None
