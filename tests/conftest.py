"""Shared fixtures: the repository's root, shared material if there is any, a tiny backbone."""

import json
import os
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

ROOT = Path(__file__).parent.parent


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


@pytest.fixture(autouse=True)
def _command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    # LightningCLI warns when it is given arguments while the process has some too.
    monkeypatch.setattr("sys.argv", ["tera_pl"])


WORDS = (
    "Below is an instruction that describes a task . Write response appropriately completes the "
    "request # Instruction : Response answer1 answer2 answer3 Answer format / the correct answer "
    "is What color sky blue green red ? , Please choose to question true false"
)


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers with grouped queries, and a word tokenizer, as a folder."""
    folder = tmp_path_factory.mktemp("tiny_backbone")
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
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_commonsense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sub-tasks in the LLM-Adapters format: 200 training and 12 test records each."""
    folder = tmp_path_factory.mktemp("tiny_commonsense")
    for task in ("ARC-Easy", "openbookqa"):
        (folder / task).mkdir()
        for split, count in (("train", 200), ("test", 12)):
            records = [_record(task, split, index) for index in range(count)]
            (folder / task / f"{split}.json").write_text(json.dumps(records))
    return folder


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
