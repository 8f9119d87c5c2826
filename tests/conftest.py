"""Shared fixtures: the repository's root, shared material if there is any, a tiny backbone.

Libraries that take seconds to import are imported where they are used: pytest-xdist's controller
loads this file before it starts a worker.
"""

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, settings

from tests.soak import SOAK

ROOT = Path(__file__).parent.parent

# The same examples in every run of `make test`, others in every soak. Whether a test passes never
# depends on the speed of the machine. What a soak finds becomes an @example: no database keeps it.
settings.register_profile(
    "tera_pl",
    derandomize=not SOAK,
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("tera_pl")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch

    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs CUDA"))


def code_blocks(page: str, *languages: str) -> list[re.Match[str]]:
    """Find the fenced blocks of a page, with `language` and `text`; by default of all languages."""
    text = (ROOT / page).read_text()
    found = re.finditer(r"(?ms)^```(?P<language>\w*)\n(?P<text>.*?)^```$", text)
    return [block for block in found if not languages or block["language"] in languages]


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with real benchmark files and real tokenizers, which no commit holds."""
    folder = os.environ.get("TERA_PL_SHARED")
    if not folder:
        pytest.skip("TERA_PL_SHARED is not set: no real data here")
    return Path(folder)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """Folder of SmolLM2-135M-Instruct, where it was prepared."""
    from tera_pl.commands.smollm2 import FOLDER

    folder = FOLDER.expanduser()
    if not folder.exists():
        pytest.skip("needs `python -m tera_pl smollm2`")
    return folder


@pytest.fixture(autouse=True)
def _command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    # LightningCLI warns when it is given arguments while the process has some too.
    monkeypatch.setattr("sys.argv", ["tera_pl"])


@pytest.fixture(scope="module", autouse=True)
def _shared_parsers() -> Iterator[None]:
    """Build the parser of the command line once for a module: it takes as long as all parsing."""
    if "tera_pl.cli" not in sys.modules:
        yield
        return
    from tests.attempts import share_parsers

    with pytest.MonkeyPatch.context() as patch:
        share_parsers(patch, short=False)
        yield


WORDS = (
    "Below is an instruction that describes a task . Write response appropriately completes the "
    "request # Instruction : Response answer1 answer2 answer3 Answer format / the correct answer "
    "is What color sky blue green red ? , Please choose to question true false"
)


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers with grouped queries, and a word tokenizer, as a folder."""
    return write_backbone(tmp_path_factory.mktemp("tiny_backbone"))


def write_backbone(folder: Path, **sizes: int) -> Path:
    """Write the files of `tiny_backbone`; one of other sizes gets no weights."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<pad>", "<s>", "</s>", "<unk>", *sorted(set(WORDS.split()))]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    ).save_pretrained(folder)
    tiny = {"hidden_size": 24, "intermediate_size": 32, "max_position_embeddings": 256}
    tiny |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        architectures=["LlamaForCausalLM"],
        **(tiny | sizes),
    )
    if sizes:
        config.save_pretrained(folder)
    else:
        # Seeded, or its weights, and which step is the best, depend on the tests before.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_commonsense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sub-tasks in the LLM-Adapters format: 200 training and 12 test records each."""
    return write_commonsense(tmp_path_factory.mktemp("tiny_commonsense"))


def write_commonsense(folder: Path) -> Path:
    """Write the files of `tiny_commonsense`."""
    for task in ("ARC-Easy", "openbookqa"):
        (folder / task).mkdir()
        for split, count in (("train", 200), ("test", 12)):
            records = [_record(task, split, index) for index in range(count)]
            (folder / task / f"{split}.json").write_text(json.dumps(records))
    return folder


@pytest.fixture
def tiny_config(write_tiny_config: Callable[[Path], Path], tmp_path: Path) -> Path:
    """A configuration in the folder of the test."""
    return write_tiny_config(tmp_path)


@pytest.fixture(scope="session")
def write_tiny_config(tiny_backbone: Path, tiny_commonsense: Path) -> Callable[[Path], Path]:
    """Write a configuration of eight steps with a validation after every second."""
    content = tiny_settings(str(tiny_backbone), str(tiny_commonsense))

    def write(folder: Path) -> Path:
        path = folder / "config.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write


def tiny_settings(backbone: str, commonsense: str) -> dict[str, Any]:
    """Give the settings of a run of eight steps, a validation after every second."""
    model = {
        "backbone": {"path": backbone, "dtype": "float32"},
        "adapter": {
            "class_path": "tera_pl.adapters.TeraConfig",
            "init_args": {"target_modules": ["q_proj", "v_proj"], "dropout": 0.2},
        },
        "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.1}},
        "schedule": {"name": "linear", "warmup_steps": 2},
        "generation": {"max_new_tokens": 3},
        "metric": {"class_path": "tera_pl.metrics.ChoiceAccuracy"},
    }
    data = {
        "path": commonsense,
        "tasks": ["openbookqa"],
        "batch_size": 4,
        "eval_batch_size": 64,
    }
    trainer = {
        "accelerator": "cpu",
        "max_steps": 8,
        "val_check_interval": 2,
        "limit_val_batches": 1,
        "check_val_every_n_epoch": None,
        "log_every_n_steps": 1,
        "num_sanity_val_steps": 0,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": {
            "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
            "init_args": {"save_dir": "runs", "name": "run"},
        },
    }
    return {
        "seed_everything": 1,
        "model": {"class_path": "tera_pl.tasks.CausalLMTask", "init_args": model},
        "data": {"class_path": "datamodules.Commonsense170k", "init_args": data},
        "trainer": trainer,
        "checkpoint": {"monitor": "val/loss"},
    }


def _record(task: str, split: str, index: int) -> dict[str, str]:
    answer = f"answer{1 + index % 3}"
    return {
        "instruction": "Please choose the correct answer to the question: "
        f"What color is the {task} {split} {index}?\n\n"
        "Answer1: blue Answer2: green Answer3: red\n\n"
        "Answer format: answer1/answer2/answer3",
        "input": "",
        "output": f"the correct answer is {answer}",
        "answer": answer,
    }
