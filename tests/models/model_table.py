"""Take tiny models of many architectures from fit to a merged model, for docs/models.md.

`python -m tests.models.model_table` writes the page; `test_architectures.py` compares it.
"""

import contextlib
import sys
import tempfile
import textwrap
import warnings
from collections.abc import Mapping
from pathlib import Path

import peft
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from tera_pl.__main__ import main as run_command
from tera_pl.adapters import TeraConfig
from tera_pl.analysis.merging import merge
from tera_pl.checkpointing.atomic_writes import write_atomically
from tera_pl.cli import TeraCLI, build
from tera_pl.models.attention import PACKABLE, why_not_packed
from tera_pl.models.backbone import Backbone, add_adapter, load_model
from tera_pl.models.packed_attention import ATTENTION
from tests.conftest import ROOT, tiny_settings, write_backbone, write_commonsense
from tests.models.architectures import tiny_config, tiny_model

PAGE = ROOT / "docs" / "models.md"
SWEPT = (
    "falcon",
    "gemma2",
    "gemma3_text",
    "gpt2",
    "gpt_neox",
    "llama",
    "mistral",
    "opt",
    "phi3",
    "qwen2",
    "qwen3",
    "smollm3",
)
STAGES = ("fit", "test", "export", "merged", "all-linear")
COMMAND = "python -m tests.models.model_table"
HEAD = f"""# Models

What works with each architecture of transformers, by tiny random models of two layers and TeRA
without target modules, modes or attention in the configuration: `fit` of two steps, `test`,
`export --merge`, and whether the adapter changes the logits and the merged folder has those of the
adapted model in plain transformers. The last is whether a merged adapter on `all-linear` gives the
logits of the adapted model.

`attn_implementation: auto` is the default. It is packed attention, which computes nothing for
padding, where that is exact, and else what transformers chooses, with one line that says why.
Target modules that are not given are those of PEFT; where it has no default, a line names the query
and value projections.

Written by `{COMMAND}`; a test compares it.

| `model_type` | attention | target modules | {" | ".join(STAGES)} | why not packed |
|---|---|---|{"---|" * len(STAGES)}---|
"""


def sweep(name: str, tokenizer: Path, data: Path, folder: Path) -> dict[str, str]:
    """Try a model in an empty folder; give the cells of its row by column."""
    base = folder / "base"
    words = AutoTokenizer.from_pretrained(tokenizer)
    words.save_pretrained(base)
    tiny_model(name, len(words)).save_pretrained(base)
    found = {"why": why_not_packed(tiny_config(name, len(words)), trusted=False) or ""}
    settings = tiny_settings(str(base), str(data))
    model = settings["model"]["init_args"]
    model["adapter"]["init_args"] = {}
    model["schedule"] = {"name": "linear", "warmup_steps": 0}
    settings["data"]["init_args"]["eval_batch_size"] = 12
    settings["trainer"]["max_steps"] = 2
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    last = "runs/run/version_0/checkpoints/last.ckpt"
    with contextlib.chdir(folder):
        fitted = build(TeraCLI, ["fit", "--config", "config.yaml"])
        found["fit"] = _yes(fitted.trainer.global_step == 2)
        # Not the command, which would parse the configuration again: half of the time of this test.
        scores = fitted.trainer.test(fitted.model, fitted.datamodule, last, verbose=False)
        found["test"] = _yes(0 <= scores[0]["test/accuracy"] <= 1)
        export = ["export", "--ckpt_path", last, "--output", "merged", "--merge"]
        found["export"] = _yes(run_command(export) == 0)
    found |= _compare(base, folder / "runs/run/version_0/adapter", folder / "merged")
    return found | _try_all_linear(base)


@torch.no_grad()
def _logits(model: torch.nn.Module) -> torch.Tensor:
    ids = torch.arange(4, 20).reshape(2, 8)
    return model.eval()(input_ids=ids, use_cache=False).logits


def _compare(base: Path, adapter: Path, merged: Path) -> dict[str, str]:
    plain = AutoModelForCausalLM.from_pretrained(base)
    before = _logits(plain)
    adapted = peft.PeftModel.from_pretrained(plain, adapter)
    expected = _logits(adapted)
    found = _logits(AutoModelForCausalLM.from_pretrained(merged))
    changed = (expected - before).abs().max() > 0.01
    same = torch.allclose(found, expected, rtol=1e-4, atol=1e-5)
    targets = adapted.peft_config["default"].target_modules
    return {"targets": ", ".join(sorted(targets)), "merged": _yes(changed and same)}


def _try_all_linear(base: Path) -> dict[str, str]:
    config = TeraConfig(target_modules="all-linear", init_weights=False, scaling=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the line on attention, again
        model = load_model(Backbone(str(base), dtype="float32"))
    attention = "packed" if model.config._attn_implementation == ATTENTION else "padded"
    before = _logits(model)
    adapted = add_adapter(model, config)
    expected = _logits(adapted)
    found = _logits(merge(adapted)[0])
    changed = (expected - before).abs().max() > 0.01
    same = torch.allclose(found, expected, rtol=1e-4, atol=1e-5)
    return {"attention": attention, "all-linear": _yes(changed and same)}


def _yes(works: bool) -> str:
    return "yes" if works else "no"


def as_row(name: str, found: Mapping[str, str]) -> str:
    cells = [found[column] for column in ("attention", "targets", *STAGES, "why")]
    return f"| `{name}` | {' | '.join(cells)} |"


def as_page(rows: list[str]) -> str:
    names = ", ".join(f"`{name}`" for name in sorted(PACKABLE))
    end = (
        "Packed logits are compared with those of one sequence after the other, sliding windows "
        f"included, for these types: {names}. Batches of other types are padded."
    )
    return "\n".join([HEAD + "\n".join(rows), "", *textwrap.wrap(end, 100), ""])


def main(page: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        parts = [Path(folder, name) for name in ("tokenizer", "data", *SWEPT)]
        for part in parts:
            part.mkdir()
        tokenizer, data, *folders = parts
        write_backbone(tokenizer)
        write_commonsense(data)
        rows = [
            as_row(name, sweep(name, tokenizer, data, place))
            for name, place in zip(SWEPT, folders, strict=True)
        ]
    write_atomically(page, as_page(rows))


if __name__ == "__main__":
    sys.argv[1:] = []  # Lightning's command line would read them
    main(PAGE)
