"""How an adapter is loaded, for its model card."""

from pathlib import Path
from typing import Any

import yaml
from peft import PeftConfig
from transformers import BitsAndBytesConfig

from tera_pl.checkpointing.atomic_writes import write_atomically

_LOAD = """    from peft import AutoPeftModelForCausalLM

    model = AutoPeftModelForCausalLM.from_pretrained("<this folder>")
"""
_LOAD_QUANTIZED = """    from peft import AutoPeftModelForCausalLM
    from transformers import BitsAndBytesConfig

    quantization = BitsAndBytesConfig(
{settings}
    )
    model = AutoPeftModelForCausalLM.from_pretrained(
        "<this folder>", quantization_config=quantization
    )
"""
_IMPORT = "    import tera_pl.adapters  # registers {kind} with PEFT: pip install tera-pl\n"
_WHY = """
Without this import `from_pretrained` of PEFT ends with `KeyError: '{kind}'`: PEFT has no entry
point by which an installed package could register a method. For programs that cannot import it,
`python -m tera_pl export` writes a merged model (`--merge`) or a LoRA adapter (`--as lora`).
"""


def how_to_load(adapter: PeftConfig, quantization: Any = None) -> str:
    """Give the code that loads an adapter, with the import that its method needs.

    Args:
        adapter: Settings of the adapter.
        quantization: How the base was quantized while it was loaded, or None.

    Returns:
        Markdown: an indented block of code, and for methods of this package an explanation.
    """
    load = _LOAD
    if isinstance(quantization, BitsAndBytesConfig):
        given = quantization.to_diff_dict().items()
        lines = (f"        {key}={value!r}," for key, value in given if not key.startswith("_"))
        load = _LOAD_QUANTIZED.format(settings="\n".join(lines))
    if not type(adapter).__module__.startswith("tera_pl."):
        return load
    kind = str(getattr(adapter.peft_type, "value", adapter.peft_type))
    return _IMPORT.format(kind=kind) + load + _WHY.format(kind=kind)


def card_head(base_model: str, library: str, tags: list[str]) -> str:
    """Give the metadata of a model card.

    Args:
        base_model: Folder or Hub id of the base model.
        library: The library that loads the files.
        tags: Tags besides `tera_pl`.

    Returns:
        YAML between two lines of dashes.
    """
    head = {
        "base_model": base_model,
        "library_name": library,
        "pipeline_tag": "text-generation",
        "tags": ["tera_pl", *tags],
    }
    return f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n"


def write_adapter_card(
    folder: Path, adapter: PeftConfig, base_model: str, quantization: Any = None
) -> None:
    """Write README.md of an adapter in a run directory, instead of PEFT's empty form.

    Args:
        folder: Folder of the adapter.
        adapter: Its settings.
        base_model: Folder or Hub id of the base model.
        quantization: How the base was quantized while it was loaded, or None.
    """
    kind = str(getattr(adapter.peft_type, "value", adapter.peft_type))
    parts = [
        card_head(base_model, "peft", [kind.lower()]),
        f"# {kind} adapter of a run\n",
        how_to_load(adapter, quantization),
        "`results.json` in the folder above has settings and scores; `python -m tera_pl export`",
        "writes a complete model card.\n",
    ]
    write_atomically(folder / "README.md", "\n".join(parts))
