"""The record format of LLM-Adapters (Hu et al., 2023): instruction, input, output, answer."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datamodules.records import get_text


def get_instruction(item: Mapping[str, Any], place: str) -> str:
    """Take the instruction out of an object, and its `input` after it if that is not empty.

    Args:
        item: The object.
        place: File and record, for the message.

    Returns:
        The instruction.

    Raises:
        ValueError: If a field is missing or no text, or the instruction is empty.
    """
    instruction = get_text(item, "instruction", place)
    context = get_text(item, "input", place, empty=True)
    return f"{instruction}\n{context}" if context else instruction


def make_id(place: str, folder: Path) -> str:
    """Name a record by its file, relative to the data's folder, and its number in there."""
    return place.replace(f"{folder}/", "").replace(", record ", ":").replace(", line ", ":")


def check_size(path: Path | str, size: int, published: int | None) -> None:
    """Warn about a file that does not have the number of records that was published."""
    if published is not None and size != published:
        warnings.warn(
            f"{path} has {size:,} records, the published file {published:,} "
            f"({size - published:+,}): scores are not comparable with published ones",
            stacklevel=2,
        )
