"""Every method that PEFT registers, the settings it is tried with, and the table of results."""

from pathlib import Path
from typing import Any

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from tests.conftest import ROOT

TABLE = ROOT / "docs" / "peft_methods.md"
STAGES = ("fit", "resume", "test", "export", "merge", "ranks")
# Without settings of their own some methods do not fit a small model, or have required ones. The
# targets of those below are not the linear layers q_proj and v_proj.
OTHER_TARGETS = {"ADAPTION_PROMPT", "LN_TUNING", "SHADOW", "TRAINABLE_TOKENS"}
PROMPT = {"num_virtual_tokens": 3}
SETTINGS = {
    "ADALORA": {"total_step": 10},
    "ADAPTION_PROMPT": {"adapter_len": 3, "adapter_layers": 2},
    "BOFT": {"boft_block_size": 4},
    "C3A": {"block_size": 4},
    "CARTRIDGE": PROMPT,
    "CPT": {"cpt_token_ids": [1, 2, 3], "cpt_mask": [1, 1, 1], "cpt_tokens_type_mask": [1, 2, 3]},
    "FOURIERFT": {"n_frequency": 10},
    "GRALORA": {"r": 4, "gralora_k": 2},
    "IA3": {"feedforward_modules": []},
    "LN_TUNING": {"target_modules": ["input_layernorm"]},
    "MISS": {"r": 4},
    "MULTITASK_PROMPT_TUNING": PROMPT | {"num_tasks": 1},
    "OFT": {"oft_block_size": 4},
    "PREFIX_TUNING": PROMPT,
    "PROMPT_TUNING": PROMPT,
    "PSOFT": {"r": 4},
    "P_TUNING": PROMPT | {"encoder_hidden_size": 8},
    "RANDLORA": {"r": 8},
    "ROAD": {"group_size": 4},
    "SHADOW": {"auxiliary_loss_weight": 0.0},
    "SHIRA": {"r": 2},
    "TRAINABLE_TOKENS": {"token_indices": [5, 6]},
    "UNILORA": {"r": 4},
    "VBLORA": {"vector_length": 4, "num_vectors": 16, "r": 4},
    "WAVEFT": {"n_frequency": 10},
    "XLORA": {"adapters": {}, "hidden_size": 24},
}


def classes() -> dict[str, type]:
    """The methods that come with PEFT, by name."""
    return {
        str(kind.value): config
        for kind, config in sorted(PEFT_TYPE_TO_CONFIG_MAPPING.items(), key=lambda item: item[0])
        if config.__module__.startswith("peft.")
    }


def settings_of(kind: str) -> dict[str, object]:
    settings = {"task_type": "CAUSAL_LM"} | SETTINGS.get(kind, {})
    has_targets = "target_modules" in classes()[kind].__dataclass_fields__
    if has_targets and kind not in OTHER_TARGETS:
        settings["target_modules"] = ["q_proj", "v_proj"]
    return settings


def as_row(kind: str, found: dict[str, Any]) -> str:
    cells = [found.get(stage, "") for stage in STAGES]
    name = f"`peft.{classes()[kind].__name__}`"
    share = f"{found['ratio']:.2f}" if "ratio" in found else ""
    return f"| {name} | {' | '.join(cells)} | {share} | {found.get('reason', '')} |"


def committed_rows(path: Path = TABLE) -> dict[str, list[str]]:
    """Cells of the table in the docs, by the name of the class."""
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| `peft.")]
    return {cells[0].strip("`").removeprefix("peft."): cells[1:] for cells in rows}
