"""Folders as runs leave them, without a run."""

import csv
import json
from pathlib import Path

import numpy as np
import yaml

ADAPTERS = {
    "TeRA": {"peft_type": "TERA", "target_modules": ["q_proj", "v_proj"], "out_modes": 2},
    "LoRA": {"peft_type": "LORA", "target_modules": ["q_proj", "v_proj"], "r": 4},
    "HiRA": {"peft_type": "HIRA", "target_modules": ["v_proj", "q_proj"], "r": 32},
    "VeRA": {"peft_type": "VERA", "target_modules": ["q_proj", "v_proj"], "r": 256},
    "LoRETTA": {"peft_type": "LORETTA", "target_modules": ["q_proj", "v_proj"], "r": 16},
    "Prompt-Tuning": {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 20},
    "P-Tuning": {"peft_type": "P_TUNING", "num_virtual_tokens": 20},
    "full": None,
}


def write_run(
    path: Path,
    scores: dict[str, float],
    *,
    method: str = "LoRA",
    seed: int = 0,
    dataset: str = "Commonsense170k",
    backbone: str = "meta-llama/Meta-Llama-3-8B",
    adapter: dict | None = None,
    protocol: dict | None = None,
    lr: float = 0.01,
    trained: int = 1000,
    missing: dict | None = None,
    test_trainer: dict | None = None,
) -> Path:
    """Write results.json, config.yaml and config_test.yaml of a run with these test scores."""
    path.mkdir(parents=True)
    kind = ADAPTERS[method]
    test = {"scores": {f"test/{k}": v for k, v in scores.items()}}
    if missing:
        test["missing_scores"] = missing
    results = {
        "fit": {"resources": {"trained": trained, "trained_percent": trained / 1e4}},
        "test": test,
        "settings": {
            "adapter": kind if kind is None else kind | {"seed": seed} | (adapter or {}),
            "backbone": {"path": backbone, "dtype": "bfloat16"},
            "optimizer": {"class": "AdamW", "lr": lr},
            "schedule": {"name": "linear", "warmup_steps": 100},
            "data": {"class": f"datamodules.some.{dataset}"},
            "protocol": {"name": None, "generation": {"num_beams": 4}} | (protocol or {}),
        },
        "environment": {"versions": {"torch": "2.13.0"}, "python": "3.11.7", "device": "A100"},
    }
    (path / "results.json").write_text(json.dumps(results))
    config = {
        "seed_everything": seed,
        "trainer": {"max_steps": 40, "limit_test_batches": None},
        "data": {"init_args": {"path": f"/data/{path.name}", "num_test": 300, "batch_size": 16}},
    }
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    config["trainer"] |= test_trainer or {}
    (path / "config_test.yaml").write_text(yaml.safe_dump(config))
    return path


def write_ranks(path: Path, ranks: dict[str, list[int]], largest: int = 64) -> None:
    """Write ranks.csv and singular_values.npz: a rank per layer for each module."""
    with (path / "ranks.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "layer", "module", "rank", "stable_rank", "max_rank"])
        for module, values in ranks.items():
            for index, rank in enumerate(values):
                layer = f"model.layers.{index}.self_attn"
                writer.writerow([10, layer, module, 1, 1.0, largest])
                writer.writerow([40, layer, module, rank, 1.5, largest])
    np.savez(
        path / "singular_values.npz",
        **{
            f"model.layers.{index}.self_attn.{module}": np.linspace(2, 1e-9, largest)
            for module, values in ranks.items()
            for index in range(len(values))
        },
    )
