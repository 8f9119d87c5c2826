"""The model card of an exported run."""

import json
from pathlib import Path
from typing import Any

from peft import LoraConfig

from tera_pl.checkpointing.adapter_card import card_head, how_to_load
from tera_pl.checkpointing.atomic_writes import write_atomically
from tera_pl.checkpointing.trained_model import TrainedModel
from tera_pl.reporting.markup import markdown

USE_MODEL = """    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained("<this folder>")
"""


def write_card(
    folder: Path, trained: TrainedModel, run: Path, results: dict[str, Any], report: dict[str, Any]
) -> None:
    """Write README.md: what the weights are, how they were trained and scored.

    Args:
        folder: The exported folder.
        trained: The exported model.
        run: The run directory.
        results: Content of its results.json; empty if it has no results.
        report: What merging or the conversion to LoRA changed; empty without one.
    """
    is_lora, is_merged = "rank" in report, "merged_layers" in report
    tags = [trained.adapter.peft_type.lower()] if trained.adapter else []
    if is_lora and tags != ["lora"]:
        tags.append("lora")
    backbone = trained.spec.backbone
    library, usage = "transformers", USE_MODEL
    if trained.adapter is not None and not is_merged:
        library = "peft"
        adapter = LoraConfig() if is_lora else trained.adapter
        usage = how_to_load(adapter, trained.backbone.quantization)
    identity = {
        "base revision": backbone["commit"] or backbone["revision"] or "a local folder",
        "base config SHA-256": backbone["config_sha256"],
        "base weights SHA-256": backbone["frozen_weights_sha256"],
        "base quantization": json.dumps(backbone["quantization"]),
        "tokenizer SHA-256": trained.spec.tokenizer["sha256"],
        "run": str(run),
    }
    resources = results.get("fit", {}).get("resources", {})
    counts = {k: v for k, v in resources.items() if k.startswith(("trained", "stored", "frozen"))}
    settings = results.get("settings", {})
    parts = [
        card_head(backbone["path"], library, tags),
        f"# {markdown(run.parent.name)}\n",
        usage,
        "## Scores before the conversion to LoRA\n" if is_lora else "## Scores\n",
        _table(results.get("test", {}).get("scores", {})) or "Not tested.\n",
        "## Counts\n",
        _table(counts) or "Not recorded.\n",
        "## Identity\n",
        _table(identity),
        "## Protocol\n",
        _block(settings.get("protocol", {})),
        "## Adapter\n",
        _block(trained.spec.adapter or {}),
    ]
    if report:
        parts += ["## LoRA\n" if is_lora else "## Merging\n", _table(report)]
    write_atomically(folder / "README.md", "\n".join(parts))


def _table(values: dict[str, Any]) -> str:
    rows = [
        f"| {markdown(key)} | {markdown(value)} |"
        for key, value in values.items()
        if not isinstance(value, dict)
    ]
    return "\n".join(["| | |", "|---|---|", *rows]) + "\n" if rows else ""


def _block(values: dict[str, Any]) -> str:
    # JSON has no line that begins with a backtick: line ends inside its strings are escaped.
    return f"```json\n{json.dumps(values, indent=2, sort_keys=True, default=str)}\n```\n"
